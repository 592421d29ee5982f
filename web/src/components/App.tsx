/** The whole page: side bar, the page one is on, dialogs over it. */
import { useEffect, useLayoutEffect } from "preact/hooks";
import { ImprovePage } from "../improve/ImprovePage";
import { VersionsPage } from "../improve/VersionsPage";
import { FeedbackPage } from "../improve/FeedbackPage";
import { KeysPage } from "../keys/KeysPage";
import { reloadConversations } from "../state/conversations";
import { sidebarOpen } from "../state/preferences";
import { route } from "../state/route";
import { locked, me, refreshMe, startError } from "../state/session";
import { conversation, refresh, title } from "../state/thread";
import { Announcer } from "./Announcer";
import { ChatPage } from "./ChatPage";
import { Confirm } from "./Confirm";
import { Locked } from "./Locked";
import { Settings } from "./Settings";
import { Sidebar } from "./Sidebar";
import { TeachDialogs } from "./TeachDialogs";
import { Button } from "./Button";

const RETRY_MS = 1500;

export function App() {
  useEffect(() => void refreshMe(), []);
  useEffect(() => {
    if (!startError.value) return undefined;
    const timer = setTimeout(() => void refreshMe(), RETRY_MS);
    return () => clearTimeout(timer);
  });
  useTitle();
  if (locked.value) return <Locked />;
  if (!me.value) return <Starting />;
  return <Rooms />;
}

function Rooms() {
  useEffect(() => void reloadConversations(), []);
  // Focus and keys are taken in layout effects, here and elsewhere: what is pressed before the first paint counts too.
  useLayoutEffect(() => {
    const closeSidebar = () => (sidebarOpen.value = false);
    const onKey = (event: KeyboardEvent) => event.key === "Escape" && closeSidebar();
    // What another tab or the terminal did meanwhile.
    const onReturn = () => {
      if (document.visibilityState === "visible") void Promise.all([refreshMe(), reloadConversations(), refresh()]);
    };
    const wide = matchMedia("(min-width: 52rem)");
    document.addEventListener("visibilitychange", onReturn);
    wide.addEventListener("change", closeSidebar);
    addEventListener("keydown", onKey);
    return () => {
      document.removeEventListener("visibilitychange", onReturn);
      wide.removeEventListener("change", closeSidebar);
      removeEventListener("keydown", onKey);
    };
  }, []);
  const at = route.value;
  const narrow = sidebarOpen.value;
  return (
    <div class="app" data-page={at.page}>
      <a class="skip-link" href="#main" onClick={(event) => {
        event.preventDefault();
        document.getElementById("main")?.focus();
      }}>Skip to the chat</a>
      <Sidebar />
      {narrow && <div class="shade" onClick={() => (sidebarOpen.value = false)} />}
      <main id="main" tabIndex={-1} inert={narrow}>
        {at.page === "chat" && <ChatPage />}
        {at.page === "improve" && <ImprovePage id={at.id} />}
        {at.page === "versions" && <VersionsPage id={at.id} />}
        {at.page === "keys" && <KeysPage />}
        {at.page === "feedback" && <FeedbackPage id={at.id} />}
      </main>
      <TeachDialogs />
      <Settings />
      <Confirm />
      <Announcer />
    </div>
  );
}

function Starting() {
  return (
    <main class="starting" data-starting>
      {startError.value ? (
        <>
          <h1>Not there yet</h1>
          <p role="alert">{startError.value}</p>
          <Button onClick={() => void refreshMe()}>Try again</Button>
        </>
      ) : (
        <p>Opening…</p>
      )}
    </main>
  );
}

function useTitle(): void {
  const at = route.value;
  const name = at.page === "chat" ? conversation.value && title.value : { improve: "Improve", versions: "Versions", feedback: "Feedback", keys: "Keys" }[at.page];
  useEffect(() => void (document.title = name ? `${name} · tutee` : "tutee"), [name]);
}
