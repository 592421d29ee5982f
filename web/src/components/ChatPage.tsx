/** The chat: its top bar, the thread, the composer. */
import { useEffect, useRef, useState } from "preact/hooks";
import { route } from "../state/route";
import { away, conversation, open, path, temporary, threadState, title } from "../state/thread";
import { Chip } from "./Badge";
import { Composer } from "./Composer";
import { Icon } from "./Icon";
import { TopBar } from "./TopBar";
import { Turn } from "./Turn";
import { Welcome } from "./Welcome";

const NEAR_BOTTOM_PX = 60;

export function ChatPage() {
  const id = route.value.page === "chat" ? route.value.id : null;
  useEffect(() => void open(id), [id]);
  const isTemporary = conversation.value?.temporary ?? temporary.value;
  const isNew = threadState.value === "empty" || (threadState.value === "ready" && !path.value.length);
  return (
    <>
      <TopBar title={threadState.value === "missing" ? "Not here" : conversation.value ? title.value : "New chat"}>
        {isTemporary && <Chip kind="temporary">Temporary</Chip>}
      </TopBar>
      {away.value && (
        <p class="banner" role="alert" data-away>
          <Icon name="warning" /> The server is away. Trying again…
        </p>
      )}
      {threadState.value === "missing" ? <Missing /> : isNew ? <Welcome /> : <Thread />}
      {threadState.value !== "missing" && <Composer key={id ?? "new"} conversationId={id} />}
    </>
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

  const toEnd = () => scroller.current?.scrollTo({ top: scroller.current.scrollHeight });
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
  }, [lastSaid]);

  return (
    <div class="scroller" ref={scroller} onScroll={onScroll} data-thread={threadState.value} tabIndex={-1}>
      <div class="thread" ref={content}>
        {path.value.map((message) => <Turn key={message.id} message={message} />)}
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
