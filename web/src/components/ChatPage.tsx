/** The chat: its top bar, the thread, the composer. */
import { useEffect, useRef, useState } from "preact/hooks";
import { route } from "../state/route";
import { away, conversation, open, path, saying, shown, temporary, threadState, title } from "../state/thread";
import { Away } from "./Away";
import { Chip } from "./Badge";
import { Button } from "./Button";
import { Composer } from "./Composer";
import { Icon } from "./Icon";
import { TopBar } from "./TopBar";
import { Pending, Turn } from "./Turn";
import { Welcome } from "./Welcome";

const NEAR_BOTTOM_PX = 60;

export function ChatPage() {
  const id = route.value.page === "chat" ? route.value.id : null;
  useEffect(() => void open(id), [id]);
  const isTemporary = conversation.value?.temporary ?? temporary.value;
  const state = threadState.value;
  const isEmpty = state === "empty" || (state === "ready" && !path.value.length);
  const isHere = state !== "missing" && state !== "failed";
  return (
    <>
      <TopBar title={conversation.value ? title.value : TITLES[state]}>
        {isTemporary && <Chip kind="temporary">Temporary</Chip>}
      </TopBar>
      {away.value && <Away />}
      {state === "missing" ? <Missing /> : state === "failed" ? <Failed id={id} /> : isEmpty && saying.value?.to !== shown.value ? <Welcome /> : <Thread />}
      {isHere && <Composer conversationId={id} />}
    </>
  );
}

const TITLES = { empty: "New chat", loading: "…", ready: "New chat", missing: "Not here", failed: "Chat" };

function Failed({ id }: { id: string | null }) {
  return (
    <div class="scroller">
      <div class="missing">
        <h2>This chat could not be read</h2>
        <p>The server did not answer, or not as it should. The chat itself is safe.</p>
        <div class="actions"><Button icon="retry" data-action="reopen" onClick={() => void open(id)}>Try again</Button></div>
      </div>
    </div>
  );
}

function Missing() {
  return (
    <div class="scroller">
      <div class="missing">
        <h2>This chat is not here</h2>
        <p>It was deleted, belongs to somebody else, or was a temporary one.</p>
      </div>
    </div>
  );
}

/** Follows the end of the thread only while the reader is there. */
function Thread() {
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  const lastTop = useRef(0);
  const [behind, setBehind] = useState(false);

  const toEnd = () => {
    const box = scroller.current;
    box?.scrollTo({ top: box.scrollHeight });
    lastTop.current = box?.scrollTop ?? 0;
  };
  const onScroll = () => {
    const box = scroller.current;
    if (!box) return;
    // An answer may grow by more than a little between a scroll to its end and the news of it: only going up is leaving.
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_BOTTOM_PX;
    following.current = atEnd || (following.current && box.scrollTop >= lastTop.current);
    lastTop.current = box.scrollTop;
    setBehind(!following.current);
  };
  useEffect(() => {
    const grown = new ResizeObserver(() => (following.current ? toEnd() : onScroll()));
    grown.observe(content.current!);
    grown.observe(scroller.current!);
    return () => grown.disconnect();
  }, []);
  // One's own new turn always comes into view, wherever one was reading.
  const lastSaid = path.value.findLast((message) => message.role === "user")?.id;
  useEffect(() => {
    following.current = true;
    toEnd();
  }, [lastSaid, saying.value]);

  return (
    <div class="scroller" ref={scroller} onScroll={onScroll} data-thread={threadState.value} tabIndex={-1}>
      <div class="thread" ref={content}>
        {path.value.map((message) => <Turn key={message.id} message={message} />)}
        <Pending />
      </div>
      {behind && (
        <button type="button" class="to-end" aria-label="Jump to the latest answer" data-action="to-end" onClick={() => {
          following.current = true;
          toEnd();
        }}>
          <Icon name="arrowDown" />
        </button>
      )}
    </div>
  );
}
