/** What this browser remembers for its reader: theme, sampling, system prompt, drafts. Never leaves the machine. */
import { effect, signal } from "@preact/signals";
import { keep, recall } from "../storage";
import type { Sampling } from "../types";

export type Theme = "system" | "light" | "dark";

const recalled = recall("theme");
export const theme = signal<Theme>(recalled === "light" || recalled === "dark" ? recalled : "system");
const systemDark = matchMedia("(prefers-color-scheme: dark)");
export const isDark = signal(systemDark.matches);

function applyTheme(): void {
  if (theme.value === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
  isDark.value = theme.value === "dark" || (theme.value === "system" && systemDark.matches);
}

effect(() => {
  keep("theme", theme.value === "system" ? "" : theme.value);
  applyTheme();
});
systemDark.addEventListener("change", applyTheme);

function readSampling(): Sampling {
  try {
    const kept: unknown = JSON.parse(recall("sampling"));
    return typeof kept === "object" && kept ? kept : {};
  } catch {
    return {};
  }
}

/** Only what the reader set; the server's defaults hold for the rest. */
export const sampling = signal<Sampling>(readSampling());
effect(() => keep("sampling", Object.keys(sampling.value).length ? JSON.stringify(sampling.value) : ""));

/** The system prompt that new chats start with. */
export const systemPrompt = signal(recall("system"));
effect(() => keep("system", systemPrompt.value));

export const sidebarOpen = signal(false);

export const readDraft = (conversation: string | null): string => recall(`draft.${conversation ?? "new"}`);
export const keepDraft = (conversation: string | null, text: string): void => keep(`draft.${conversation ?? "new"}`, text);
