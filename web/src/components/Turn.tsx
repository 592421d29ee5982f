/** One turn of the thread: what a person said, one answer, or two answers side by side. */
import { useState } from "preact/hooks";
import { demonstrate, teaching } from "../state/teaching";
import { answer, asked, judged, path, reword, saying, shown, step, tree } from "../state/thread";
import { isBlind, pairOf } from "../tree";
import type { Message } from "../types";
import { Answer } from "./Answer";
import { Button, IconButton } from "./Button";
import { Comparison } from "./Comparison";
import { CopyButton } from "./CopyButton";
import { TextEditor } from "./TextEditor";

export function Turn({ message }: { message: Message }) {
  if (message.role === "user") return <Question message={message} />;
  const pair = pairOf(tree.value, message);
  if (pair && (isBlind(pair) || judged.value.has(message.presentation_id!))) return <Comparison pair={pair} />;
  return <Answer message={message} />;
}

/** What was just sent, until the server has it. */
export function Pending() {
  const sent = saying.value;
  if (sent?.to !== shown.value) return null;
  return (
    <article class="turn question pending" aria-label="Being sent" aria-busy="true" data-pending>
      <div class="bubble" dir="auto">{sent.content}</div>
      <OnItsWay />
    </article>
  );
}

/** Three dots: something was asked and has not begun. */
export function OnItsWay() {
  return <p class="thinking" role="img" aria-label="The answer is on its way"><span /><span /><span /></p>;
}

function Question({ message }: { message: Message }) {
  const [editing, setEditing] = useState(false);
  const task = teaching.value;
  return (
    <article class="turn question" aria-label="You said" data-role="user" data-message={message.id}>
      {editing ? (
        <TextEditor label="Say it differently" hint="The old wording and its answers stay, one step to the left." name="reword"
          start={message.content ?? ""} action="Send" onCancel={() => setEditing(false)}
          onSave={async (text) => (await reword(message, text.trim())) && setEditing(false)} />
      ) : (
        <>
          <div class="bubble" dir="auto">{message.content}</div>
          <div class="turn-tools">
            <Siblings message={message} />
            <CopyButton text={message.content ?? ""} />
            <IconButton icon="pencil" label="Edit this message" data-action="edit-turn" onClick={() => setEditing(true)} />
          </div>
          {path.value.at(-1)?.id === message.id && (asked.value.has(message.id) ? <OnItsWay /> :
            <Button look="quiet" icon="retry" data-action="answer" onClick={() => void answer(message.id, false)}>Answer this</Button>
          )}
        </>
      )}
      {task?.kind === "demo" && task.parent === message.id && (
        <TextEditor label="Your own answer" hint="Write what a good answer would be. It becomes part of this chat and an example to learn from."
          name="demo" start="" action="Save as the answer" onCancel={() => (teaching.value = null)}
          onSave={(text) => demonstrate(message.id, text.trim())} />
      )}
    </article>
  );
}

/** ‹2/3›: step through the wordings or answers at this place. */
export function Siblings({ message }: { message: Message }) {
  if (message.sibling_count < 2) return null;
  const at = message.sibling_index + 1;
  return (
    <span class="siblings" role="group" aria-label={`Branch ${at} of ${message.sibling_count}`}
      data-siblings={`${at}/${message.sibling_count}`}>
      <IconButton icon="left" label="Previous branch" disabled={at === 1} onClick={() => step(message, -1)} />
      <span>{at}/{message.sibling_count}</span>
      <IconButton icon="right" label="Next branch" disabled={at === message.sibling_count} onClick={() => step(message, 1)} />
    </span>
  );
}
