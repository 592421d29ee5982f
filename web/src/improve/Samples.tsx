/** What the model in training answers now, the best first: numbers can rise while the text goes wrong. */
import { number } from "../format";
import type { Sample } from "../types";

export function Samples({ samples }: { samples: Sample[] }) {
  const ordered = [...samples].sort((a, b) => (b.reward ?? 0) - (a.reward ?? 0));
  return (
    <details class="more" open>
      <summary>What it answers now</summary>
      <ul class="samples" aria-label="Answers of the model in training">
        {ordered.map((sample, index) => (
          <li key={index} data-sample>
            <p class="sample-prompt">{sample.prompt}</p>
            <p class="sample-answer">{sample.answer || "(nothing)"}</p>
            {sample.reward != null && <span class="sample-reward">reward {number(sample.reward)}</span>}
          </li>
        ))}
      </ul>
    </details>
  );
}
