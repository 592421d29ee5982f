/** Where one writes: Enter sends, Shift+Enter is a new line, a draft survives a reload, Send turns into Stop. */
import { signal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { keepDraft, readDraft } from "../state/preferences";
import {
  askForTwo, asked, conversation, openPair, path, saying, send, shown, stop, streaming, temporary, threadState, wasBegunHere,
} from "../state/thread";
import { IconButton } from "./Button";
import { Icon } from "./Icon";
import { fit } from "./TextEditor";

const text = signal("");

const focusComposer = (): void => document.querySelector<HTMLTextAreaElement>("[data-composer]")?.focus();

export function fillComposer(words: string): void {
  text.value = words;
  focusComposer();
}

export function Composer({ conversationId }: { conversationId: string | null }) {
  const area = useRef<HTMLTextAreaElement>(null);
  const writtenIn = useRef<string | null | undefined>(undefined);
  const isTemporary = conversation.value?.temporary ?? temporary.value;
  const writing = streaming.value.length > 0;
  const waiting = openPair.value !== undefined && !writing;
  const busy = writing || waiting || saying.value?.to === shown.value || threadState.value === "loading" || asked.value.has(path.value.at(-1)?.id ?? "");
  const ready = text.value.trim() !== "" && !busy;

  useLayoutEffect(() => {
    const before = writtenIn.current;
    writtenIn.current = conversationId;
    // A new chat that gets its address stays the same chat: what was typed meanwhile stays too.
    if (before === null && wasBegunHere(conversationId)) return write(text.value);
    text.value = readDraft(conversationId);
    // On a touch screen the focus would throw the keyboard over the page.
    if (matchMedia("(hover: hover)").matches) area.current!.focus();
  }, [conversationId]);
  useLayoutEffect(() => fit(area.current!), [text.value]);

  const write = (words: string) => {
    text.value = words;
    if (!isTemporary) keepDraft(conversationId, words);
  };
  const submit = async () => {
    if (!ready) return;
    const words = text.value.trim();
    write("");
    if (!(await send(words))) giveBack(words, writtenIn, conversationId);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    void submit();
  };
  return (
    <form class="composer" aria-label="Message" onSubmit={(event) => {
      event.preventDefault();
      void submit();
    }}>
      <div class="composer-box">
        <textarea ref={area} rows={1} dir="auto" aria-label="Your message" data-composer value={text.value}
          placeholder={waiting ? "Choose an answer first, then go on" : "Ask anything"}
          onInput={(event) => write(event.currentTarget.value)} onKeyDown={onKeyDown} />
        <div class="composer-row">
          {!isTemporary && <button type="button" class="toggle" aria-pressed={askForTwo.value} data-action="ask-for-two"
            title="Get two answers without knowing who wrote them, and choose" onClick={() => (askForTwo.value = !askForTwo.value)}>
            <Icon name="two" />
            <span>Show me two</span>
          </button>}
          <span class="spread" />
          {writing ? <StopButton /> : (
            <button type="submit" class="icon-button send" aria-label="Send" title="Send" disabled={!ready} data-action="send">
              <Icon name="send" />
            </button>
          )}
        </div>
      </div>
      <p class="small-print">Answers can be wrong. All stays on this machine.</p>
    </form>
  );
}

/** What could not be sent goes back to where it was written, before anything typed since. */
function giveBack(words: string, now: { current: string | null | undefined }, from: string | null): void {
  const isSame = now.current === from || (from === null && wasBegunHere(now.current ?? null));
  const place = isSame ? (now.current ?? null) : from;
  const since = isSame ? text.value : readDraft(place);
  const all = [words, since].filter(Boolean).join("\n");
  if (isSame) text.value = all;
  if (!(conversation.value?.temporary ?? temporary.value)) keepDraft(place, all);
}

/** Goes when the answer ends: the focus that was on it goes to where one writes. */
function StopButton() {
  const place = useRef<HTMLSpanElement>(null);
  useLayoutEffect(() => {
    const button = place.current!;
    return () => button.contains(document.activeElement) && focusComposer();
  }, []);
  return (
    <span ref={place}>
      <IconButton icon="stop" label="Stop" class="send stop" data-action="stop" onClick={() => void stop()} />
    </span>
  );
}
