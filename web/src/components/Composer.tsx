/** Where one writes: Enter sends, Shift+Enter is a new line, a draft survives a reload, Send turns into Stop. */
import { signal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { keepDraft, readDraft } from "../state/preferences";
import { askForTwo, conversation, openPair, send, stop, streaming, temporary } from "../state/thread";
import { IconButton } from "./Button";
import { Icon } from "./Icon";
import { fit } from "./TextEditor";

const text = signal("");
const sending = signal(false);

export function fillComposer(words: string): void {
  text.value = words;
  document.querySelector<HTMLTextAreaElement>("[data-composer]")?.focus();
}

export function Composer({ conversationId }: { conversationId: string | null }) {
  const area = useRef<HTMLTextAreaElement>(null);
  const isTemporary = conversation.value?.temporary ?? temporary.value;
  const writing = streaming.value.length > 0;
  const waiting = openPair.value !== undefined && !writing;
  const ready = text.value.trim() !== "" && !writing && !waiting && !sending.value;

  useLayoutEffect(() => {
    text.value = readDraft(conversationId);
    // On a touch screen the focus would throw the keyboard over the page.
    if (matchMedia("(hover: hover)").matches) area.current!.focus();
  }, []);
  useLayoutEffect(() => fit(area.current!), [text.value]);

  const write = (words: string) => {
    text.value = words;
    if (!isTemporary) keepDraft(conversationId, words);
  };
  const submit = async () => {
    if (!ready) return;
    const words = text.value.trim();
    sending.value = true;
    write("");
    if (!(await send(words)) && !text.value) write(words);
    sending.value = false;
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
          {writing ? (
            <IconButton icon="stop" label="Stop" class="send stop" data-action="stop" onClick={() => void stop()} />
          ) : (
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
