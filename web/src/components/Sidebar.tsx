/** The left side: new chats, past ones with search, and the way to what the assistant learns. */
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { conversations, hasMore, listState, loadMore, reloadConversations, remove, rename, search, setTraining } from "../state/conversations";
import { sidebarOpen } from "../state/preferences";
import { go, link, route } from "../state/route";
import { me } from "../state/session";
import { temporary } from "../state/thread";
import type { ConversationSummary } from "../types";
import { ask } from "./Confirm";
import { IconButton } from "./Button";
import { Icon, type IconName } from "./Icon";
import { Menu } from "./Menu";
import { openSettings } from "./Settings";

const SEARCH_DELAY_MS = 200;

function startChat(asTemporary: boolean): void {
  temporary.value = asTemporary;
  sidebarOpen.value = false;
  go(link.newChat);
}

export function Sidebar() {
  const place = useRef<HTMLElement>(null);
  // Over a narrow page it is like a dialog: the focus goes in, and back to the button that opened it.
  useLayoutEffect(() => {
    if (!sidebarOpen.value) return undefined;
    const from = document.activeElement as HTMLElement | null;
    place.current!.querySelector<HTMLElement>("[data-action=close-menu]")?.focus();
    return () => void requestAnimationFrame(() => {
      const at = document.activeElement;
      if (at === document.body || place.current?.contains(at)) from?.focus();
    });
  }, [sidebarOpen.value]);
  return (
    <aside ref={place} class={`sidebar ${sidebarOpen.value ? "open" : ""}`} aria-label="Chats and tools" data-sidebar>
      <div class="sidebar-head">
        <a class="brand" href={link.newChat} onClick={() => startChat(false)} aria-label="tutee, new chat">
          <img src="./icon.svg" alt="" width="26" height="26" />
          <span>tutee</span>
        </a>
        <IconButton icon="close" label="Close the side bar" class="only-narrow" data-action="close-menu" onClick={() => (sidebarOpen.value = false)} />
      </div>
      <div class="new-chats">
        <button type="button" class="button primary" data-action="new-chat" onClick={() => startChat(false)}>
          <Icon name="plus" />
          <span>New chat</span>
        </button>
        <IconButton icon="ghost" label="New temporary chat: nothing of it is stored" data-action="temporary-chat"
          onClick={() => startChat(true)} />
      </div>
      <Search />
      <History />
      <nav class="tools" aria-label="What the assistant learns">
        <ToolLink href={link.improve} icon="growth" label="Improve" page="improve" />
        <ToolLink href={link.versions} icon="layers" label="Versions" page="versions" />
        <ToolLink href={link.feedback} icon="notes" label="Feedback" page="feedback" />
        {me.value?.operator && <ToolLink href={link.keys} icon="key" label="Keys" page="keys" />}
        <button type="button" class="tool" data-action="settings" onClick={openSettings}>
          <Icon name="gear" />
          <span>Settings</span>
          <span class="who">{me.value?.actor.handle}</span>
        </button>
      </nav>
    </aside>
  );
}

function ToolLink({ href, icon, label, page }: { href: string; icon: IconName; label: string; page: string }) {
  const current = route.value.page === page;
  return (
    <a class="tool" href={href} aria-current={current ? "page" : undefined} onClick={() => (sidebarOpen.value = false)}>
      <Icon name={icon} />
      <span>{label}</span>
    </a>
  );
}

function Search() {
  const timer = useRef(0);
  const onInput = (text: string) => {
    search.value = text;
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => void reloadConversations(), SEARCH_DELAY_MS);
  };
  return (
    <label class="search">
      <Icon name="search" />
      <span class="visually-hidden">Search chats</span>
      <input type="search" placeholder="Search chats" value={search.value} data-search
        onInput={(event) => onInput(event.currentTarget.value)} />
    </label>
  );
}

function group(conversation: ConversationSummary): string {
  const midnight = new Date().setHours(0, 0, 0, 0) / 1000;
  const at = conversation.updated_at;
  if (at >= midnight) return "Today";
  if (at >= midnight - 86400) return "Yesterday";
  return at >= midnight - 6 * 86400 ? "This week" : "Earlier";
}

function History() {
  const end = useRef<HTMLDivElement>(null);
  const all = conversations.value;
  // Looked at anew whenever the list is: on a high screen the end may still be in view.
  useEffect(() => {
    const seen = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && void loadMore());
    seen.observe(end.current!);
    return () => seen.disconnect();
  }, [all]);
  const groups = [...Map.groupBy(all, group)];
  return (
    <nav class="history" aria-label="Past chats" data-history={listState.value} tabIndex={-1}>
      {listState.value === "ready" && !all.length && (
        <p class="hint">{search.value ? "No chat has these words." : "Your chats will be listed here."}</p>
      )}
      {groups.map(([name, members]) => (
        <section key={name}>
          <h2>{name}</h2>
          <ul>{members.map((one) => <HistoryRow key={one.id} conversation={one} />)}</ul>
        </section>
      ))}
      <div ref={end} class="history-end">{hasMore.value && "…"}</div>
    </nav>
  );
}

function HistoryRow({ conversation }: { conversation: ConversationSummary }) {
  const [naming, setNaming] = useState(false);
  const title = conversation.title || "Untitled chat";
  const here = route.value.page === "chat" && route.value.id === conversation.id;
  const mayLearn = conversation.train ?? me.value?.consent.train;
  const discard = async () => {
    const sure = await ask({
      title: "Delete this chat?",
      body: `“${title}” and all its answers will be gone. Feedback that you gave in it is withdrawn from future training.`,
      action: "Delete", danger: true,
    });
    if (sure !== null && (await remove(conversation.id)) && here) go(link.newChat);
  };
  if (naming) {
    let over = false; // leaving the field, and its going away, ends it a second time
    const done = (text: string | null) => {
      if (over) return;
      over = true;
      setNaming(false);
      if (text?.trim() && text !== title) void rename(conversation.id, text.trim());
    };
    return <li class="history-row"><RenameField start={title} onDone={done} /></li>;
  }
  return (
    <li class={`history-row ${here ? "here" : ""}`} data-conversation={conversation.id}>
      <a href={link.chat(conversation.id)} aria-current={here ? "page" : undefined} dir="auto"
        onClick={() => (sidebarOpen.value = false)}>
        {title}
      </a>
      <Menu label={`Options for ${title}`} name="conversation" items={[
        { label: "Rename", icon: "pencil", name: "rename", run: () => setNaming(true) },
        mayLearn
          ? { label: "Keep out of training", icon: "close", name: "keep-out", run: () => void setTraining(conversation.id, false) }
          : { label: "Learn from this chat", icon: "growth", name: "learn", run: () => void setTraining(conversation.id, true) },
        { label: "Delete", icon: "trash", name: "delete", danger: true, run: () => void discard() },
      ]} />
    </li>
  );
}

function RenameField({ start, onDone }: { start: string; onDone: (text: string | null) => void }) {
  const field = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => {
    field.current!.focus();
    field.current!.select();
  }, []);
  return (
    <input ref={field} class="rename" aria-label="Name of the chat" defaultValue={start} maxLength={200}
      onKeyDown={(event) => {
        if (event.isComposing) return;
        if (event.key === "Enter") onDone(event.currentTarget.value);
        if (event.key === "Escape") onDone(null);
      }}
      onBlur={(event) => onDone(event.currentTarget.value)} />
  );
}
