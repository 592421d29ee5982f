import { expect, test } from "vitest";
import { children, isBlind, leafBelow, pairOf, pathTo, withMessages } from "./tree";
import type { Message } from "./types";

function message(id: string, parent: string | null, more: Partial<Message> = {}): Message {
  return {
    id, parent_id: parent, role: "assistant", content: id, state: "complete", sibling_index: 0, sibling_count: 1, created_at: 0, author: null,
    generation_id: null, version: null, finish_reason: null, feedback: null, presentation_id: null, original_id: null, ...more,
  };
}

const tree = withMessages(new Map(), [
  message("q", null), message("a1", "q", { sibling_index: 0 }), message("a2", "q", { sibling_index: 1 }),
  message("q1", "a1"), message("q2", "a2"), message("b2", "q2"),
]);

test("siblings are counted when one is added, and nothing else is touched", () => {
  const more = withMessages(tree, [message("a3", "q", { sibling_index: 9 })]);
  expect(children(more, "q").map((one) => [one.id, one.sibling_index, one.sibling_count])).toEqual([["a1", 0, 3], ["a2", 1, 3], ["a3", 2, 3]]);
  expect(more.get("q2")).toBe(tree.get("q2"));
  expect(tree.get("a1")?.sibling_count).toBe(2);
});

test("a path runs from the root to its head; an unknown head has none", () => {
  expect(pathTo(tree, "b2").map((one) => one.id)).toEqual(["q", "a2", "q2", "b2"]);
  expect(pathTo(tree, "nobody")).toEqual([]);
});

test("a branch leads where one was last, and else to the newest", () => {
  expect(leafBelow(tree, "q", new Map())).toBe("b2");
  expect(leafBelow(tree, "q", new Map([["q", "a1"]]))).toBe("q1");
});

test("two answers of one presentation are a pair, blind until a version is named", () => {
  const blind = { presentation_id: "p" };
  const two = withMessages(tree, [message("x", "q1", blind), message("y", "q1", { ...blind, sibling_index: 1 })]);
  const pair = pairOf(two, two.get("y")!)!;
  expect(pair.map((one) => one.id)).toEqual(["x", "y"]);
  expect(isBlind(pair)).toBe(true);
  const told = withMessages(two, [{ ...pair[0], version: { id: "v", number: 1, name: "v" } }]);
  expect(isBlind(pairOf(told, told.get("x")!)!)).toBe(false);
  expect(pairOf(tree, tree.get("a1")!)).toBeUndefined();
});
