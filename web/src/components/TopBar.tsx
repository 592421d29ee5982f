/** The line above everything: where one is, which version answers, light or dark. */
import type { ComponentChildren } from "preact";
import { isDark, sidebarOpen, theme } from "../state/preferences";
import { me } from "../state/session";
import { VersionBadge } from "./Badge";
import { IconButton } from "./Button";

export function TopBar({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <header class="top-bar">
      <IconButton icon="menu" label="Open the side bar" class="only-narrow" data-action="menu"
        onClick={() => (sidebarOpen.value = true)} />
      <h1 class="top-title" dir="auto" tabIndex={-1} data-page-title>{title}</h1>
      {children}
      <span class="spread" />
      {me.value && <VersionBadge version={me.value.live} live />}
      <IconButton icon={isDark.value ? "sun" : "moon"} label={isDark.value ? "Light colours" : "Dark colours"}
        data-action="theme" onClick={() => (theme.value = isDark.value ? "light" : "dark")} />
    </header>
  );
}
