/** A text area that grows with its text, for corrections, demonstrations and reworded turns: Ctrl+Enter saves, Escape leaves, never with what was written. */
import { useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Button } from "./Button";
import { ask } from "./Confirm";

interface TextEditorProps {
  label: string;
  hint?: string;
  start: string;
  action: string;
  name: string;
  onSave: (text: string) => void | Promise<unknown>;
  onCancel: () => void;
}

/** Let a text area be as high as its text. */
export function fit(area: HTMLTextAreaElement): void {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

export function TextEditor({ label, hint, start, action, name, onSave, onCancel }: TextEditorProps) {
  const [text, setText] = useState(start);
  const [busy, setBusy] = useState(false);
  const area = useRef<HTMLTextAreaElement>(null);
  const place = useRef<HTMLDivElement>(null);
  const id = useId();
  const ready = text.trim() !== "" && text !== start && !busy;

  useLayoutEffect(() => {
    area.current!.focus();
    area.current!.setSelectionRange(start.length, start.length);
  }, []);
  useLayoutEffect(() => fit(area.current!), [text]);
  useLayoutEffect(() => place.current!.scrollIntoView({ block: "nearest" }), []); // with the button that saves

  const save = async () => {
    if (!ready) return;
    setBusy(true);
    await onSave(text);
    setBusy(false);
  };
  const leave = async () => {
    const written = text !== start && text.trim() !== "";
    const question = { title: "Discard what you wrote?", body: "It is not saved yet.", action: "Discard", danger: true };
    if (!written || (await ask(question)) !== null) onCancel();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.preventDefault(); // or the same key would close the question that it opens
      void leave();
    }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void save();
  };
  return (
    <div ref={place} class="editor" data-editor={name}>
      <label for={id}>{label}</label>
      {hint && <p class="hint">{hint}</p>}
      <textarea id={id} ref={area} dir="auto" value={text} onKeyDown={onKeyDown}
        onInput={(event) => setText(event.currentTarget.value)} />
      <div class="actions">
        <Button look="quiet" onClick={onCancel}>Cancel</Button>
        <Button look="primary" onClick={() => void save()} disabled={!ready} data-action="save">{action}</Button>
      </div>
    </div>
  );
}
