/** What an answer thought, folded away: to be looked at, not to be read with the answer nor copied with it. */
import { Markdown } from "../markdown/Markdown";

export function Thoughts({ text, thinking }: { text: string; thinking: boolean }) {
  return (
    <details class="thoughts" data-thoughts={thinking ? "growing" : "whole"}>
      <summary>{thinking ? "Thinking…" : "Thought for a moment"}</summary>
      <Markdown text={text} growing={thinking} />
    </details>
  );
}
