/** The list of past conversations: keyset pages, search, rename, delete. */
import { signal } from "@preact/signals";
import { api } from "../api";
import type { ConversationSummary } from "../types";
import { keepDraft } from "./preferences";
import { once } from "./once";
import { attempt, toast } from "./toast";

const PAGE = 40;

export const conversations = signal<ConversationSummary[]>([]);
export const hasMore = signal(false);
export const search = signal("");
export const listState = signal<"loading" | "ready">("loading");

let cursor: string | null = null;
let asked = 0;
/** What was searched for in the list that is shown. */
let answered = "";

/** Read the newest page anew; a slower answer to an older question is dropped. Older pages that were read stay. */
export async function reloadConversations(): Promise<void> {
  const question = ++asked;
  const wanted = search.value.trim();
  const page = await attempt(() => api.conversations({ limit: PAGE, q: wanted }));
  if (!page || question !== asked) return;
  const older = wanted === answered && page.has_more ? olderThan(page.data) : [];
  answered = wanted;
  conversations.value = [...page.data, ...older];
  listState.value = "ready";
  if (older.length) return;
  hasMore.value = page.has_more;
  cursor = page.last_id;
}

/** What is shown below `newest`. */
function olderThan(newest: ConversationSummary[]): ConversationSummary[] {
  const known = new Set(newest.map((one) => one.id));
  const end = newest.at(-1)?.updated_at ?? 0;
  return conversations.value.filter((one) => one.updated_at <= end && !known.has(one.id));
}

export async function loadMore(): Promise<void> {
  if (!hasMore.value) return;
  const question = asked;
  const from = cursor;
  const page = await once(`more ${from}`, () => attempt(() => api.conversations({ limit: PAGE, after: from, q: search.value.trim() })));
  if (!page || question !== asked) return;
  const known = new Set(conversations.value.map((one) => one.id));
  conversations.value = [...conversations.value, ...page.data.filter((one) => !known.has(one.id))];
  hasMore.value = page.has_more;
  cursor = page.last_id;
}

export async function rename(id: string, title: string): Promise<void> {
  const renamed = await attempt(() => api.updateConversation(id, { title }));
  if (renamed) change(id, { title: renamed.title });
}

/** Something of a chat is different now; a list that was read before does not know it, and is read again. */
function change(id: string, fields: Partial<ConversationSummary>): void {
  conversations.value = conversations.value.map((one) => (one.id === id ? { ...one, ...fields } : one));
  void reloadConversations();
}

/** Let a chat be learned from or not, whatever the reader's general consent says. */
export async function setTraining(id: string, train: boolean): Promise<void> {
  const changed = await attempt(() => api.updateConversation(id, { train }));
  if (!changed) return;
  change(id, { train: changed.train });
  toast(train ? "New versions may learn from this chat." : "This chat is kept out of training.");
}

export async function remove(id: string): Promise<boolean> {
  const gone = await attempt(() => api.deleteConversation(id));
  if (gone === undefined) return false;
  conversations.value = conversations.value.filter((one) => one.id !== id);
  void reloadConversations();
  keepDraft(id, "");
  return true;
}
