/** Short words to the reader: toasts that pass, and announcements for screen readers. */
import { signal } from "@preact/signals";
import { ApiError } from "../api";

export interface Toast {
  id: number;
  text: string;
  kind: "note" | "error";
  action?: { label: string; run: () => void };
}

export const toasts = signal<Toast[]>([]);
/** What the polite live region says; each reply once, when it is whole. */
export const announcement = signal("");

let counter = 0;

export function dismiss(id: number): void {
  toasts.value = toasts.value.filter((toast) => toast.id !== id);
}

export function toast(text: string, options: Partial<Pick<Toast, "kind" | "action">> = {}): void {
  const made: Toast = { id: ++counter, text, kind: "note", ...options };
  // A new note takes the place of the last one, an error that of the same words; other errors stay until they are read.
  toasts.value = [...toasts.value.filter((one) => one.kind === "error" && one.text !== text).slice(-2), made];
  setTimeout(() => dismiss(made.id), made.kind === "error" ? 12000 : 6000);
}

export function complain(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  if (!(error instanceof ApiError)) console.error(error);
  toast(error instanceof Error ? error.message : String(error), { kind: "error" });
}

/** Run `work`; an error becomes a toast and undefined. */
export async function attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    complain(error);
    return undefined;
  }
}
