/** One answer: its text as it grows, who wrote it, how it ended, and all the ways to teach from it. */
import { useState } from "preact/hooks";
import { Markdown } from "../markdown/Markdown";
import { correct, teaching, thumb } from "../state/teaching";
import { answer, asked, conversation, said } from "../state/thread";
import type { Message } from "../types";
import { VersionBadge } from "./Badge";
import { Button, IconButton } from "./Button";
import { CopyButton } from "./CopyButton";
import { Diff } from "./Diff";
import { Icon } from "./Icon";
import { Menu } from "./Menu";
import { TextEditor } from "./TextEditor";
import { Thoughts } from "./Thoughts";
import { OnItsWay, Siblings } from "./Turn";

export function Answer({ message }: { message: Message }) {
  const task = teaching.value;
  const correcting = task?.kind === "edit" && task.message.id === message.id;
  const correction = message.feedback?.edit?.content;
  // While it grows only its text is painted anew, not all around it.
  const words = message.state === "streaming" ? "" : said(message).words;
  return (
    <article class="turn answer" data-role="assistant" data-message={message.id} data-state={message.state}
      aria-label={message.version ? `Answer of version ${message.version.number}` : "Answer"}
      aria-busy={message.state === "streaming"}>
      <AnswerHead message={message} />
      {correcting ? (
        <TextEditor label="The answer as it should have been" hint="Change only what is wrong. The original is kept." name="edit"
          start={correction ?? words} action="Save correction" onCancel={() => (teaching.value = null)}
          onSave={(text) => correct(message, text)} />
      ) : correction != null ? (
        <Corrected original={words} correction={correction} />
      ) : (
        <AnswerText message={message} />
      )}
      <Ending message={message} corrected={correction != null} />
      {message.state !== "streaming" && !correcting && <AnswerTools message={message} text={correction ?? words} />}
    </article>
  );
}

function AnswerHead({ message }: { message: Message }) {
  return (
    <div class="answer-head">
      {message.version ? <VersionBadge version={message.version} /> : (
        <span class="badge person">{message.generation_id ? "…" : `written by ${message.author ?? "a person"}`}</span>
      )}
    </div>
  );
}

/** The text of an answer and what it thought before, live while it is being written. */
export function AnswerText({ message }: { message: Message }) {
  const growing = message.state === "streaming";
  const { thoughts, words, thinking } = said(message);
  return (
    <>
      {thoughts && <Thoughts text={thoughts} thinking={thinking} />}
      {words ? <Markdown text={words} growing={growing} />
        : growing && <OnItsWay />}
    </>
  );
}

type View = "corrected" | "changes" | "original";

function Corrected({ original, correction }: { original: string; correction: string }) {
  const [view, setView] = useState<View>("changes");
  const views: [View, string][] = [["changes", "Changes"], ["corrected", "Corrected"], ["original", "Original"]];
  return (
    <div class="corrected" data-corrected={view}>
      <div class="segments" role="group" aria-label="Corrected answer">
        {views.map(([name, label]) => (
          <button key={name} type="button" aria-pressed={view === name} data-view={name} onClick={() => setView(name)}>{label}</button>
        ))}
      </div>
      {view === "changes" ? <Diff before={original} after={correction} />
        : <Markdown text={view === "corrected" ? correction : original} />}
    </div>
  );
}

const ENDINGS: Partial<Record<Message["state"], string>> = {
  stopped: "You stopped this answer.",
  interrupted: "This answer was interrupted.",
  error: "This answer failed.",
};

function Ending({ message, corrected }: { message: Message; corrected: boolean }) {
  const cut = message.state === "complete" && message.finish_reason === "length";
  if (corrected && cut) return null;
  const text = cut ? "The answer reached its length limit." : ENDINGS[message.state];
  if (!text) return null;
  return (
    <p class="ending" data-ending={cut ? "length" : message.state}>
      <Icon name="warning" />
      <span>{text}</span>
      {!cut && message.parent_id && (
        <Button look="quiet" icon="retry" data-action="retry" disabled={asked.value.has(message.parent_id)} onClick={() => void answer(message.parent_id!, false)}>Retry</Button>
      )}
    </p>
  );
}

export function AnswerTools({ message, text }: { message: Message; text: string }) {
  const given = message.feedback?.thumb?.value ?? 0;
  const parent = message.parent_id;
  const teachable = !conversation.value?.temporary;
  const busy = asked.value.has(parent ?? "");
  return (
    <div class="turn-tools" role="group" aria-label="What to do with this answer">
      <Siblings message={message} />
      <CopyButton text={text} />
      {teachable && message.generation_id && (
        <>
          <IconButton icon="up" label="Good answer" pressed={given === 1} data-action="thumb-up"
            onClick={() => void thumb(message, given === 1 ? 0 : 1)} />
          <IconButton icon="down" label="Bad answer" pressed={given === -1} data-action="thumb-down"
            onClick={() => void thumb(message, given === -1 ? 0 : -1)} />
          <IconButton icon="pencil" label="Correct this answer" data-action="correct"
            onClick={() => (teaching.value = { kind: "edit", message })} />
        </>
      )}
      {parent && (
        <IconButton icon="retry" label="Answer again" data-action="regenerate" disabled={busy} onClick={() => void answer(parent, false)} />
      )}
      {teachable && parent && (
        <>
          <IconButton icon="two" label="Show me two answers" data-action="compare" disabled={busy} onClick={() => void answer(parent, true)} />
          <Menu label="More" name="answer" items={[
            { label: "I’d answer this myself", icon: "quill", name: "demo", run: () => (teaching.value = { kind: "demo", parent }) },
            ...(message.generation_id
              ? [{ label: "Flag as harmful", icon: "flag" as const, name: "flag", run: () => void (teaching.value = { kind: "flag", message }) }]
              : []),
          ]} />
        </>
      )}
    </div>
  );
}
