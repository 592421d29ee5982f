/** An empty chat: an invitation, a few openings, and what can be set before the first word. */
import { useState } from "preact/hooks";
import { me } from "../state/session";
import { systemPrompt } from "../state/preferences";
import { conversation, temporary } from "../state/thread";
import { fillComposer } from "./Composer";

const OPENINGS = [
  "Explain how a bicycle stays upright, in two sentences.",
  "Write a short note that moves our meeting to Thursday.",
  "List three things to check before a long drive.",
];

export function Welcome() {
  const version = me.value?.live.number;
  const [customised] = useState(systemPrompt.value !== ""); // a prompt that is emptied while one types keeps its field
  return (
    <div class="scroller">
      <div class="welcome">
        <h2>{temporary.value ? "This chat leaves no trace" : "Ask. Then teach."}</h2>
        <p>
          {temporary.value
            ? "It lives in the server’s memory only. It is not in your history and nothing is learned from it."
            : `Version ${version ?? "…"} answers. Rate, compare or correct what it says, and the next version learns from it.`}
        </p>
        <ul class="openings" aria-label="Openings">
          {OPENINGS.map((text) => (
            <li key={text}>
              <button type="button" onClick={() => fillComposer(text)}>{text}</button>
            </li>
          ))}
        </ul>
        {!conversation.value && (
          <details class="customise" open={customised}>
            <summary>System prompt</summary>
            <label class="visually-hidden" for="system-prompt">System prompt for new chats</label>
            <textarea id="system-prompt" rows={3} placeholder="How should the assistant behave in this and later new chats?"
              value={systemPrompt.value} onInput={(event) => (systemPrompt.value = event.currentTarget.value)} />
          </details>
        )}
      </div>
    </div>
  );
}
