/** The open conversation: its tree, the path that is shown, and the answers being written right now. */
import { type Signal, batch, computed, signal } from "@preact/signals";
import { ApiError, api } from "../api";
import { follow } from "../stream";
import { type Said, apart } from "../thoughts";
import { type Tree, children, isBlind, leafBelow, pairOf, pathTo, withMessages } from "../tree";
import type { Conversation, ConversationSummary, Message } from "../types";
import { conversations, reloadConversations } from "./conversations";
import { keepDraft, sampling, systemPrompt } from "./preferences";
import { go, link, route } from "./route";
import { me, refreshMe } from "./session";
import { announcement, attempt, complain } from "./toast";

export const conversation = signal<ConversationSummary | null>(null);
export const tree = signal<Tree>(new Map());
export const head = signal<string | null>(null);
export const threadState = signal<"empty" | "loading" | "ready" | "missing" | "failed">("empty");
/** True while the server does not answer and we keep trying. */
export const away = signal(false);
/** The next chat leaves no trace in the database. */
export const temporary = signal(false);
/** The next question gets two blind answers. */
export const askForTwo = signal(false);
/** Pairs judged since the conversation was opened: they stay side by side, with their versions shown. */
export const judged = signal<ReadonlySet<string>>(new Set());
/** Counts what was opened, so that a slow answer to an older wish is dropped. */
const opened = signal(0);
/** Names what is shown: the conversation, or a new one that has no name yet. */
export const shown = computed(() => conversation.value?.id ?? `new ${opened.value}`);
/** What was sent last and is not yet known to have arrived: `to` is what was shown then. */
export const saying = signal<{ number: number; to: string; content: string } | null>(null);
/** Turns for which an answer was asked that has not begun. */
export const asked = signal<ReadonlySet<string>>(new Set());

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

/** Counts what was heard of single messages, so that an older picture of the whole does not wipe it out. */
let heard = 0;

function put(...messages: Message[]): void {
  heard++;
  tree.value = withMessages(tree.value, messages);
}

function show(id: string | null): void {
  head.value = id;
  for (const message of pathTo(tree.value, id)) if (message.parent_id) lastSeen.set(message.parent_id, message.id);
}

/** Whether a conversation is (still) the open one: people go elsewhere while a server thinks. */
const isOpen = (id: string): boolean => conversation.value?.id === id;

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

const isGone = (error: unknown): boolean => error instanceof ApiError && error.status === 404;

/** Show a conversation, or an empty page for null; answers still being written go on where they are. */
export async function open(id: string | null): Promise<void> {
  if (id !== null && isOpen(id)) return;
  const mine = ++opened.value;
  reset();
  if (id === null) return;
  threadState.value = "loading";
  try {
    const found = await api.conversation(id);
    if (mine === opened.value) adopt(found);
  } catch (error) {
    if (mine !== opened.value) return;
    threadState.value = isGone(error) ? "missing" : "failed";
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

/** Read the open conversation again, for what feedback or another tab changed in it; what was said there goes on the path. */
export async function refresh(): Promise<void> {
  const id = conversation.value?.id;
  if (!id) return;
  const before = heard;
  const found = await api.conversation(id).catch((error: unknown) => {
    if (isOpen(id) && isGone(error)) threadState.value = "missing";
    complain(error);
    return undefined;
  });
  if (!found || !isOpen(id)) return;
  if (before !== heard) return refresh();
  batch(() => {
    tree.value = withMessages(tree.value, found.messages.filter((message) => !followers.has(message.id)));
    if (head.value) show(leafBelow(tree.value, head.value, lastSeen));
  });
  streaming.value.forEach(watch);
}

/** Read one message again. */
export async function refreshMessage(id: string): Promise<void> {
  const message = await attempt(() => api.message(id));
  if (message && tree.value.has(id)) put(message);
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
      if (!finished || follower.signal.aborted) return;
      cancelAnimationFrame(painting);
      followers.delete(message.id);
      put(finished);
      liveTexts.delete(message.id);
      announce(finished);
      if (finished.version && finished.version.id !== me.value?.live.id) void refreshMe();
      void reloadConversations();
    })
    .catch((error: unknown) => {
      if (follower.signal.aborted) return;
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

/** Where a turn is said: in which conversation, and after what. */
interface Place {
  id: string;
  parent: string | null;
}

/** After the shown path. A turn that was never answered is said anew beside it: only answers can be gone on from. */
function here(): Place | undefined {
  const last = path.value.at(-1);
  const id = conversation.value?.id;
  return id ? { id, parent: last?.role === "user" ? last.parent_id : head.value } : undefined;
}

/** The conversation that was begun last in this tab. */
let begun: string | null = null;
export const wasBegunHere = (id: string | null): boolean => id !== null && id === begun;

/** Begin a conversation, and show it unless the reader has gone elsewhere meanwhile. */
async function begin(number: number): Promise<Place> {
  const mine = opened.value;
  const made = await api.createConversation({
    ...(systemPrompt.value.trim() ? { system: systemPrompt.value.trim() } : {}),
    ...(temporary.value ? { temporary: true } : {}),
  });
  const found = made.head_message_id ? await api.conversation(made.id) : { ...made, messages: [] };
  if (mine === opened.value && route.value.page === "chat") {
    begun = made.id;
    keepDraft(null, "");
    batch(() => {
      adopt(found);
      if (saying.value?.number === number) saying.value = { ...saying.value, to: made.id };
      go(link.chat(made.id), true);
    });
  }
  return { id: made.id, parent: made.head_message_id };
}

let sent = 0;

function isSaid(number: number): void {
  if (saying.value?.number === number) saying.value = null;
}

/** Say `content` after the shown path and ask for an answer. Returns whether it was sent. */
export async function send(content: string): Promise<boolean> {
  const compare = askForTwo.value && !(conversation.value?.temporary ?? temporary.value);
  const place = here();
  const number = ++sent;
  saying.value = { number, to: shown.value, content };
  const arrived = await attempt(async () => {
    const { id, parent } = place ?? (await begin(number));
    await remembered;
    const said = await api.say(id, content, parent);
    batch(() => {
      isSaid(number);
      if (isOpen(id)) arrive(said);
    });
    return { id, said };
  });
  isSaid(number);
  if (arrived) void answer(arrived.said.id, compare, arrived.id);
  return arrived !== undefined;
}

function arrive(said: Message): void {
  batch(() => {
    put(said);
    show(said.id);
  });
}

/** Say an earlier turn differently: a sibling, the old one stays. Returns whether it was sent. */
export async function reword(turn: Message, content: string): Promise<boolean> {
  const id = conversation.value?.id;
  if (!id) return false;
  await remembered;
  const said = await attempt(() => api.say(id, content, turn.parent_id));
  if (!said) return false;
  if (isOpen(id)) arrive(said);
  void answer(said.id, false, id);
  return true;
}

/** Ask for one more answer to `parent`, or for two blind ones; once, however often one presses. */
export async function answer(parent: string, compare: boolean, id = conversation.value?.id): Promise<void> {
  if (!id || asked.value.has(parent)) return;
  asked.value = new Set([...asked.value, parent]);
  const options = { ...(compare ? { compare } : {}), ...(Object.keys(sampling.value).length ? { sampling: sampling.value } : {}) };
  const made = await attempt(() => remembered.then(() => api.generate(id, parent, options)));
  batch(() => {
    asked.value = new Set([...asked.value].filter((one) => one !== parent));
    if (!made || !isOpen(id)) return;
    put(...made.messages);
    show(made.messages[0]?.id ?? parent);
    made.messages.forEach(watch);
  });
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

/** What the server was told last about where one reads. A turn that is said waits for it: it would come second, and win. */
let remembered: Promise<unknown> = Promise.resolve();

/** Show the branch that goes through `id`, and remember it on the server. */
export function visit(id: string): void {
  show(leafBelow(tree.value, id, lastSeen));
  const open = conversation.value;
  const at = head.value;
  if (open && at) remembered = remembered.then(() => attempt(() => api.updateConversation(open.id, { head_message_id: at })));
}
