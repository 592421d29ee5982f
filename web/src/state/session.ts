/** Who is here, what they agreed to, and which version answers. */
import { signal } from "@preact/signals";
import { ApiError, api, identity } from "../api";
import { keep, passing, recall } from "../storage";
import type { Me } from "../types";
import { newest } from "./once";
import { complain } from "./toast";

export const me = signal<Me | null>(null);
/** True when the server wants a key that we do not have. */
export const locked = signal(false);
/** Why the first request failed, so that the page can say so instead of staying blank. */
export const startError = signal("");

identity.actor = recall("actor");
identity.key = recall("key", passing);

const readMe = newest(() => api.me());

export async function refreshMe(): Promise<void> {
  try {
    const told = await readMe();
    if (!told) return;
    me.value = told;
    locked.value = false;
    startError.value = "";
  } catch (error) {
    if (error instanceof ApiError && (error.status === 401 || error.status === 403)) locked.value = true;
    else if (me.value) complain(error);
    else startError.value = error instanceof Error ? error.message : String(error);
  }
}

/** Try a key. One that fits lives as long as the tab, never on disk. */
export async function unlock(key: string): Promise<void> {
  identity.key = key;
  await refreshMe();
  if (!locked.value) keep("key", key, passing);
}

/** Another person of this machine sits down; empty is the owner. */
export function becomeActor(handle: string): void {
  keep("actor", handle);
  location.hash = "#/";
  location.reload();
}

/** Erase whoever sits here, and begin anew. */
export async function eraseMe(): Promise<void> {
  await api.eraseMe(me.value?.actor.handle ?? "");
  location.hash = "#/";
  location.reload();
}

export async function setConsent(train: boolean): Promise<void> {
  const agreed = await api.consent(train);
  if (me.value) me.value = { ...me.value, consent: agreed };
}
