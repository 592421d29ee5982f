/** The open conversation: its tree, the path that is shown, and the answers being written right now. */
import { type Signal, batch, computed, signal } from "@preact/signals";
import { api } from "../api";
import { follow } from "../stream";
import { type Said, apart } from "../thoughts";
import { type Tree, children, isBlind, leafBelow, pairOf, pathTo, withMessages } from "../tree";
import type { Conversation, ConversationSummary, Message } from "../types";
import { conversations, reloadConversations } from "./conversations";
import { keepDraft, sampling, systemPrompt } from "./preferences";
import { go, link } from "./route";
import { me, refreshMe } from "./session";
import { announcement, attempt, complain } from "./toast";

export const conversation = signal<ConversationSummary | null>(null);
export const tree = signal<Tree>(new Map());
export const head = signal<string | null>(null);
export const threadState = signal<"empty" | "loading" | "ready" | "missing">("empty");
/** True while the server does not answer and we keep trying. */
export const away = signal(false);
/** The next chat leaves no trace in the database. */
export const temporary = signal(false);
/** The next question gets two blind answers. */
export const askForTwo = signal(false);
/** Pairs judged since the conversation was opened: they stay side by side, with their versions shown. */
export const judged = signal<ReadonlySet<string>>(new Set());

/** The name of the open chat; the list hears of a new one first. */
export const title = computed(() => {
  const listed = conversations.value.find((one) => one.id === conversation.value?.id);
  return (listed ?? conversation.value)?.title || "Untitled chat";
});
export const path = computed(() => pathTo(tree.value, head.value).filter((message) => message.role !== "system"));
export const streaming = computed(() => [...tree.value.values()].filter((message) => message.state === "streaming"));
/** The pair at the end of the path that waits for a choice. */
export const openPair = computed(() => {
  const last = path.value.at(-1);
  const pair = last && pairOf(tree.value, last);
  return pair && isBlind(pair) && pair.every((one) => one.state !== "error" && one.state !== "interrupted") ? pair : undefined;
});

/** The child last looked at below each message: going back to a branch shows what one saw there. */
const lastSeen = new Map<string, string>();
const followers = new Map<string, AbortController>();
const liveTexts = new Map<string, Signal<string>>();

/** The text of an answer while it is being written. */
export function liveText(message: Message): Signal<string> {
  let text = liveTexts.get(message.id);
  if (!text) liveTexts.set(message.id, (text = signal(message.content ?? "")));
  return text;
}

/** An answer taken apart into thoughts and words, live while it is being written. */
export function said(message: Message): Said {
  const growing = message.state === "streaming";
  const inside = Boolean(me.value?.thinking && message.version?.id === me.value.live.id);
  return apart(growing ? liveText(message).value : (message.content ?? ""), growing, inside);
}

function put(...messages: Message[]): void {
  tree.value = withMessages(tree.value, messages);
}

function show(id: string | null): void {
  head.value = id;
  for (const message of pathTo(tree.value, id)) if (message.parent_id) lastSeen.set(message.parent_id, message.id);
}

function reset(): void {
  for (const follower of followers.values()) follower.abort();
  followers.clear();
  liveTexts.clear();
  lastSeen.clear();
  batch(() => {
    conversation.value = null;
    tree.value = new Map();
    head.value = null;
    away.value = false;
    judged.value = new Set();
    threadState.value = "empty";
  });
}

/** Counts what was asked for, so that a slow answer to an older wish is dropped. */
let opened = 0;

/** Show a conversation, or an empty page for null; answers still being written go on where they are. */
export async function open(id: string | null): Promise<void> {
  if (id !== null && conversation.value?.id === id) return;
  const mine = ++opened;
  reset();
  if (id === null) return;
  threadState.value = "loading";
  try {
    const found = await api.conversation(id);
    if (mine === opened) adopt(found);
  } catch (error) {
    if (mine !== opened) return;
    threadState.value = "missing";
    complain(error);
  }
}

function adopt(found: Conversation): void {
  const { messages, ...summary } = found;
  batch(() => {
    conversation.value = summary;
    temporary.value = summary.temporary;
    tree.value = new Map(messages.map((message) => [message.id, message]));
    const last = messages.reduce<Message | undefined>((a, b) => (!a || b.created_at >= a.created_at ? b : a), undefined);
    show(summary.head_message_id ?? last?.id ?? null);
    threadState.value = "ready";
  });
  streaming.value.forEach(watch);
}

/** Read the open conversation again, for what feedback changed in it. */
export async function refresh(): Promise<void> {
  const id = conversation.value?.id;
  const found = id && (await attempt(() => api.conversation(id)));
  if (found && conversation.value?.id === found.id) {
    tree.value = withMessages(tree.value, found.messages.filter((message) => !followers.has(message.id)));
    streaming.value.forEach(watch);
  }
}

/** Read one message again. */
export async function refreshMessage(id: string): Promise<void> {
  const message = await attempt(() => api.message(id));
  if (message) put(message);
}

function watch(message: Message): void {
  if (followers.has(message.id)) return;
  const follower = new AbortController();
  followers.set(message.id, follower);
  const text = liveText(message);
  let painting = 0;
  const paint = (heard: string) => {
    cancelAnimationFrame(painting);
    painting = requestAnimationFrame(() => (text.value = heard));
  };
  follow(message.id, paint, (isAway) => (away.value = isAway), follower.signal)
    .then((finished) => {
      if (!finished) return;
      cancelAnimationFrame(painting);
      followers.delete(message.id);
      put(finished);
      liveTexts.delete(message.id);
      announce(finished);
      if (finished.version && finished.version.id !== me.value?.live.id) void refreshMe();
      void reloadConversations();
    })
    .catch((error: unknown) => {
      followers.delete(message.id);
      put({ ...message, content: text.value, state: "error" });
      complain(error);
    });
}

function announce(finished: Message): void {
  const pair = pairOf(tree.value, finished);
  if (!pair) announcement.value = `tutee says: ${said(finished).words.slice(0, 1500)}`;
  else if (pair.every((one) => one.state !== "streaming")) announcement.value = "Two answers are ready. Choose one with the keys 1 to 4.";
}

async function ensureConversation(): Promise<ConversationSummary> {
  if (conversation.value) return conversation.value;
  const made = await api.createConversation({
    ...(systemPrompt.value.trim() ? { system: systemPrompt.value.trim() } : {}),
    ...(temporary.value ? { temporary: true } : {}),
  });
  keepDraft(null, "");
  adopt({ ...made, messages: [] });
  if (made.head_message_id) adopt(await api.conversation(made.id));
  go(link.chat(made.id), true);
  return made;
}

/** Say `content` after the shown path and ask for an answer. Returns whether it was sent. */
export async function send(content: string): Promise<boolean> {
  const sent = await attempt(async () => {
    const { id } = await ensureConversation();
    // A turn that was never answered is said anew beside it: only answers can be gone on from.
    const last = path.value.at(-1);
    const said = await api.say(id, content, last?.role === "user" ? last.parent_id : head.value);
    put(said);
    show(said.id);
    return said;
  });
  if (sent) await answer(sent.id, askForTwo.value && !conversation.value?.temporary);
  return sent !== undefined;
}

/** Say an earlier turn differently: a sibling, the old one stays. */
export async function reword(turn: Message, content: string): Promise<void> {
  const id = conversation.value?.id;
  const said = id && (await attempt(() => api.say(id, content, turn.parent_id)));
  if (!said) return;
  put(said);
  show(said.id);
  await answer(said.id, false);
}

/** Ask for one more answer to `parent`, or for two blind ones. */
export async function answer(parent: string, compare: boolean): Promise<void> {
  const id = conversation.value?.id;
  if (!id) return;
  const options = { ...(compare ? { compare } : {}), ...(Object.keys(sampling.value).length ? { sampling: sampling.value } : {}) };
  const made = await attempt(() => api.generate(id, parent, options));
  if (!made) return;
  put(...made.messages);
  show(made.messages[0]?.id ?? parent);
  made.messages.forEach(watch);
  void reloadConversations();
}

export async function stop(): Promise<void> {
  await Promise.all(streaming.value.map((message) => attempt(() => api.stop(message.id))));
}

/** Step to the sibling `by` places away and to what was last seen below it. */
export function step(message: Message, by: number): void {
  const siblings = children(tree.value, message.parent_id);
  const next = siblings[siblings.findIndex((one) => one.id === message.id) + by];
  if (next) visit(next.id);
}

/** Show the branch that goes through `id`, and remember it on the server. */
export function visit(id: string): void {
  show(leafBelow(tree.value, id, lastSeen));
  const open = conversation.value;
  const at = head.value;
  if (open && at) void attempt(() => api.updateConversation(open.id, { head_message_id: at }));
}
