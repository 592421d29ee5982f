/** The tree of a conversation: pure functions over messages by id. Knows no signal and no server. */
import type { Message } from "./types";

export type Tree = ReadonlyMap<string, Message>;

/** Answers and edits under one parent, oldest first. */
export function children(tree: Tree, parent: string | null): Message[] {
  return [...tree.values()].filter((message) => message.parent_id === parent).sort(bySibling);
}

const bySibling = (a: Message, b: Message) => a.sibling_index - b.sibling_index || (a.id < b.id ? -1 : 1);

/** From the root to `head`; empty when `head` is unknown. */
export function pathTo(tree: Tree, head: string | null): Message[] {
  const path: Message[] = [];
  for (let at = head ? tree.get(head) : undefined; at; at = at.parent_id ? tree.get(at.parent_id) : undefined) {
    path.unshift(at);
  }
  return path;
}

/** The leaf one arrives at below `start`: the child last looked at, else the newest one. */
export function leafBelow(tree: Tree, start: string, lastSeen: ReadonlyMap<string, string>): string {
  let at = start;
  for (;;) {
    const below = children(tree, at);
    const next = below.find((child) => child.id === lastSeen.get(at)) ?? below.at(-1);
    if (!next) return at;
    at = next.id;
  }
}

/** The two answers shown side by side together with `message`, in the order shown; undefined for a single answer. */
export function pairOf(tree: Tree, message: Message): [Message, Message] | undefined {
  if (!message.presentation_id || message.role !== "assistant") return undefined;
  const shown = children(tree, message.parent_id).filter((one) => one.presentation_id === message.presentation_id);
  return shown.length === 2 ? (shown as [Message, Message]) : undefined;
}

/** Whether a pair still hides which versions wrote it. */
export const isBlind = (pair: [Message, Message]): boolean => pair.every((one) => one.version === null);

/** `tree` with `fresh` put in; sibling counts and indices under the touched parents are made right again. */
export function withMessages(tree: Tree, fresh: Message[]): Tree {
  const next = new Map(tree);
  for (const message of fresh) next.set(message.id, message);
  for (const parent of new Set(fresh.map((message) => message.parent_id))) {
    const below = children(next, parent);
    below.forEach((one, index) => {
      if (one.sibling_count !== below.length || one.sibling_index !== index) {
        next.set(one.id, { ...one, sibling_index: index, sibling_count: below.length });
      }
    });
  }
  return next;
}
