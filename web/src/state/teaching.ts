/** What people teach: thumbs, choices, corrections, demonstrations, flags. Sends feedback and says what became of it. */
import { signal } from "@preact/signals";
import { api } from "../api";
import type { Feedback, FeedbackInput, Message, Winner } from "../types";
import { once } from "./once";
import { conversation, judged, refresh, refreshMessage, tree, visit } from "./thread";
import { attempt, toast } from "./toast";

export type Teaching =
  | { kind: "edit" | "flag"; message: Message }
  | { kind: "thumb"; message: Message; note: string }
  | { kind: "demo"; parent: string };

/** What is being written right now: at most one thing at a time. */
export const teaching = signal<Teaching | null>(null);

let lastGiven: Promise<unknown> = Promise.resolve();

/** Give feedback: the same only once, and one after the other, so that a change of mind is the later word on the server too. */
function give(input: FeedbackInput): Promise<Feedback | undefined> {
  return once(JSON.stringify(input), () => {
    const given = lastGiven.then(() => attempt(() => api.give(input)));
    lastGiven = given;
    return given;
  });
}

/** `text`, and why this piece will not be learned from, if so. */
function honest(text: string, given: Feedback): string {
  return given.usable || !given.why_not ? text : `${text} Not used for training: ${given.why_not}`;
}

const thank = (text: string, given: Feedback): void => toast(honest(text, given));

/** Set the thumb of an answer; the same one again, or 0, takes it back. */
export async function thumb(message: Message, value: 1 | -1 | 0): Promise<void> {
  const given = await give({ kind: "thumb", message_id: message.id, value });
  if (!given) return;
  await refreshMessage(message.id);
  if (value === 0) {
    teaching.value = null;
    toast("Your thumb is taken back.");
  } else if (tree.value.has(message.id)) {
    teaching.value = { kind: "thumb", message, note: honest("Your thumb is kept.", given) };
  }
}

export async function explainThumb(message: Message, value: 1 | -1, reasons: string[], comment: string): Promise<void> {
  const given = await give({
    kind: "thumb", message_id: message.id, value, reasons, ...(comment.trim() ? { comment: comment.trim() } : {}),
  });
  if (!given) return;
  teaching.value = null;
  await refreshMessage(message.id);
  thank("Your reasons are kept with the answer.", given);
}

/** Choose between two blind answers; afterwards their versions are shown and the chat goes on from the better one. */
export async function choose(pair: [Message, Message], winner: Winner, dwellMs: number): Promise<void> {
  const presentation = pair[0].presentation_id;
  if (!presentation) return;
  const vote = { kind: "compare", presentation_id: presentation, winner, dwell_ms: Math.round(dwellMs) } as const;
  const given = await once(presentation, () => give(vote));
  if (!given || !tree.value.has(pair[0].id)) return;
  judged.value = new Set([...judged.value, presentation]);
  await refresh();
  visit(winner === "b" ? pair[1].id : pair[0].id);
  const said = { a: "You chose A.", b: "You chose B.", tie: "Noted: as good as each other.", both_bad: "Noted: neither is good." };
  thank(said[winner], given);
}

/** Keep `content` as the answer that should have been given; the original stays. */
export async function correct(message: Message, content: string): Promise<boolean> {
  const given = await give({ kind: "edit", message_id: message.id, content });
  if (!given) return false;
  teaching.value = null;
  await refresh();
  thank("Your correction is kept. The original is one click away.", given);
  return true;
}

/** Write the answer oneself: a new sibling below `parent`. */
export async function demonstrate(parent: string, content: string): Promise<boolean> {
  const open = conversation.value;
  if (!open) return false;
  const given = await give({ kind: "demo", conversation_id: open.id, parent_id: parent, content });
  if (!given) return false;
  teaching.value = null;
  await refresh();
  if (given.message_id && tree.value.has(given.message_id)) visit(given.message_id);
  thank("Your answer is kept as a demonstration.", given);
  return true;
}

export async function flag(message: Message, category: string, comment: string): Promise<void> {
  const given = await give({
    kind: "flag", message_id: message.id, category, ...(comment.trim() ? { comment: comment.trim() } : {}),
  });
  if (!given) return;
  teaching.value = null;
  toast("Flagged. It will be looked at.");
}
