/** The list of past conversations: keyset pages, search, rename, delete. */
import { signal } from "@preact/signals";
import { api } from "../api";
import type { ConversationSummary } from "../types";
import { keepDraft } from "./preferences";
import { attempt, toast } from "./toast";

const PAGE = 40;

export const conversations = signal<ConversationSummary[]>([]);
export const hasMore = signal(false);
export const search = signal("");
export const listState = signal<"loading" | "ready">("loading");

let cursor: string | null = null;
let asked = 0;

/** Read the first page anew; a slower answer to an older question is dropped. */
export async function reloadConversations(): Promise<void> {
  const question = ++asked;
  const page = await attempt(() => api.conversations({ limit: PAGE, q: search.value.trim() }));
  if (!page || question !== asked) return;
  conversations.value = page.data;
  hasMore.value = page.has_more;
  cursor = page.last_id;
  listState.value = "ready";
}

export async function loadMore(): Promise<void> {
  if (!hasMore.value) return;
  const question = asked;
  const page = await attempt(() => api.conversations({ limit: PAGE, after: cursor, q: search.value.trim() }));
  if (!page || question !== asked) return;
  const known = new Set(conversations.value.map((one) => one.id));
  conversations.value = [...conversations.value, ...page.data.filter((one) => !known.has(one.id))];
  hasMore.value = page.has_more;
  cursor = page.last_id;
}

export async function rename(id: string, title: string): Promise<void> {
  const renamed = await attempt(() => api.updateConversation(id, { title }));
  if (renamed) {
    conversations.value = conversations.value.map((one) => (one.id === id ? { ...one, title: renamed.title } : one));
  }
}

/** Let a chat be learned from or not, whatever the reader's general consent says. */
export async function setTraining(id: string, train: boolean): Promise<void> {
  const changed = await attempt(() => api.updateConversation(id, { train }));
  if (!changed) return;
  conversations.value = conversations.value.map((one) => (one.id === id ? { ...one, train: changed.train } : one));
  toast(train ? "New versions may learn from this chat." : "This chat is kept out of training.");
}

export async function remove(id: string): Promise<boolean> {
  const gone = await attempt(() => api.deleteConversation(id));
  if (gone === undefined) return false;
  conversations.value = conversations.value.filter((one) => one.id !== id);
  keepDraft(id, "");
  return true;
}
