/** Projects of this server and their keys, for whoever runs it. */
import { signal } from "@preact/signals";
import { api } from "../api";
import type { ApiKey, Project } from "../types";
import { once } from "./once";
import { attempt, toast } from "./toast";

export const projects = signal<Project[] | null>(null);
export const project = signal<Project | null>(null);
export const keys = signal<ApiKey[] | null>(null);
/** A key that was just made. Its text is in no other place, and is forgotten when it was put away. */
export const fresh = signal<{ name: string; value: string } | null>(null);

/** What a new key is to be: `scopes` null for everything; `seconds` null for no end. */
export interface KeyWish {
  name: string;
  scopes: string[] | null;
  seconds: number | null;
}

export async function loadProjects(): Promise<void> {
  const found = await attempt(() => api.projects());
  if (!found) return;
  projects.value = found.data;
  const first = found.data.find((one) => one.id === project.value?.id) ?? found.data.find((one) => one.id === "proj_default") ?? found.data[0];
  if (first) await choose(first);
}

export async function choose(chosen: Project): Promise<void> {
  if (project.value?.id !== chosen.id) keys.value = null;
  project.value = chosen;
  const found = await attempt(() => api.keys(chosen.id));
  if (found && project.value.id === chosen.id) keys.value = found.data;
}

export async function addProject(name: string): Promise<boolean> {
  const made = await once("project", () => attempt(() => api.createProject(name)));
  if (!made) return false;
  project.value = made;
  keys.value = null;
  await loadProjects();
  toast(`Project “${made.name}” is ready.`);
  return true;
}

/** A key that may not do all it can when it is made is narrowed before anybody sees it, or taken back. */
export async function addKey(wish: KeyWish): Promise<boolean> {
  const where = project.value;
  if (!where) return false;
  const made = await attempt(async () => {
    const account = await api.createKey(where.id, { name: wish.name, ...(wish.seconds ? { expires_in_seconds: wish.seconds } : {}) });
    if (wish.scopes) {
      try {
        await api.updateKey(where.id, account.id, { scopes: wish.scopes });
      } catch (error) {
        await api.revokeKey(where.id, account.id);
        throw error;
      }
    }
    return account;
  });
  if (!made) return false;
  fresh.value = { name: made.name, value: made.api_key.value };
  await choose(where);
  return true;
}

export async function revoke(key: ApiKey): Promise<void> {
  const where = project.value;
  if (!where || !(await attempt(() => api.revokeKey(where.id, key.id)))) return;
  toast(`“${key.name}” opens nothing any more.`);
  await choose(where);
}
