/** Two blind answers side by side: A, B, tie or both bad, by mouse or with the keys 1 to 4; then their versions are shown. */
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { choose } from "../state/teaching";
import { openPair, path, said } from "../state/thread";
import { isBlind } from "../tree";
import type { Message, Winner } from "../types";
import { AnswerText, AnswerTools } from "./Answer";
import { VersionBadge } from "./Badge";
import { Icon } from "./Icon";

const CHOICES: [Winner, string][] = [["a", "A is better"], ["b", "B is better"], ["tie", "As good"], ["both_bad", "Both bad"]];

export function Comparison({ pair }: { pair: [Message, Message] }) {
  const blind = isBlind(pair);
  const ready = pair.every((one) => one.state !== "streaming");
  const shownAt = useRef(0);
  const question = useRef<HTMLDivElement>(null);
  const [busy, setBusy] = useState(false);

  const pick = async (winner: Winner) => {
    setBusy(true);
    await choose(pair, winner, performance.now() - shownAt.current);
    setBusy(false);
  };
  useLayoutEffect(() => {
    if (!blind || !ready) return undefined;
    shownAt.current = performance.now();
    const composer = document.querySelector<HTMLTextAreaElement>("[data-composer]");
    if (document.activeElement === document.body || (document.activeElement === composer && !composer?.value)) question.current?.focus();
    const onKey = (event: KeyboardEvent) => {
      const choice = CHOICES[Number(event.key) - 1];
      const busyElsewhere = (event.target as HTMLElement).closest("input, textarea, select, dialog, [popover]");
      const isAsked = openPair.value?.[0].id === pair[0].id;
      if (choice && isAsked && !busyElsewhere && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) void pick(choice[0]);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [blind, ready]);

  return (
    <section class="turn comparison" aria-label="Two answers" data-comparison={blind ? (ready ? "open" : "streaming") : "judged"}>
      <div class="pair">
        {pair.map((message, index) => <Candidate key={message.id} message={message} name={index ? "B" : "A"} blind={blind} />)}
      </div>
      {!blind && <Outcome pair={pair} />}
      {blind && (
        <div class="verdict" ref={question} tabIndex={-1} role="group" aria-label="Which answer is better? Keys 1 to 4">
          <span class="verdict-question">{ready ? "Which answer is better?" : "Two versions are writing…"}</span>
          {CHOICES.map(([winner, label], index) => (
            <button key={winner} type="button" class="choice" disabled={!ready || busy} data-choice={winner} onClick={() => void pick(winner)}>
              <kbd>{index + 1}</kbd> {label}
            </button>
          ))}
        </div>
      )}
    </section>
  );
}

/** Who wrote which, once the choice is made, and what can be done with the answer that the chat goes on from. */
function Outcome({ pair }: { pair: [Message, Message] }) {
  const chosen = pair.find((one) => path.value.some((other) => other.id === one.id)) ?? pair[0];
  return (
    <div class="outcome-row" data-outcome>
      <span>A was {pair[0].version && <VersionBadge version={pair[0].version} />}, B was {pair[1].version && <VersionBadge version={pair[1].version} />}</span>
      <AnswerTools message={chosen} text={said(chosen).words} />
    </div>
  );
}

function Candidate({ message, name, blind }: { message: Message; name: string; blind: boolean }) {
  const chosen = !blind && path.value.some((one) => one.id === message.id);
  return (
    <article class={`draft ${chosen ? "chosen" : ""}`} aria-label={`Answer ${name}`} aria-busy={message.state === "streaming"}
      data-candidate={name} data-state={message.state} data-message={message.id}>
      <header>
        <span class="letter">{name}</span>
        {message.version && <VersionBadge version={message.version} />}
        {chosen && <span class="chosen-note"><Icon name="check" /> the chat goes on from here</span>}
        {message.state !== "complete" && message.state !== "streaming" && <span class="chosen-note">{message.state}</span>}
      </header>
      <AnswerText message={message} />
    </article>
  );
}
