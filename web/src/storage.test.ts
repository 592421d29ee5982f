import { afterEach, expect, test, vi } from "vitest";
import { keep, recall } from "./storage";

afterEach(() => vi.unstubAllGlobals());

function storage(room: number): Storage {
  const kept = new Map<string, string>();
  return {
    getItem: (name: string) => kept.get(name) ?? null,
    removeItem: (name: string) => void kept.delete(name),
    setItem: (name: string, value: string) => {
      if (value.length > room) throw new DOMException("full", "QuotaExceededError");
      kept.set(name, value);
    },
  } as unknown as Storage;
}

test("what is kept is recalled, and an empty string is forgotten", () => {
  vi.stubGlobal("localStorage", storage(100));
  keep("draft", "half a thought");
  expect(recall("draft")).toBe("half a thought");
  keep("draft", "");
  expect(recall("draft")).toBe("");
});

test("a full storage forgets nothing while the page lives", () => {
  vi.stubGlobal("localStorage", storage(5));
  keep("draft", "short");
  keep("draft", "too long for it");
  expect(recall("draft")).toBe("too long for it");
  keep("draft", "fits");
  expect(recall("draft")).toBe("fits");
});

test("a forbidden storage is no reason to fail", () => {
  vi.stubGlobal("localStorage", undefined);
  expect(recall("theme")).toBe("");
  keep("theme", "dark");
  expect(recall("theme")).toBe("dark");
});
