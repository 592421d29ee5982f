/** Scores with their intervals, each on its own small scale. */
import { number, words } from "../format";
import type { Score, Version } from "../types";

const WIDTH = 120;
const MARGIN = 6;

export function Scores({ scores, all }: { scores: Score[]; all: Version[] }) {
  return (
    <div class="table-frame" tabIndex={0} role="region" aria-label="Scores">
      <table class="scores">
        <thead>
          <tr><th scope="col">Evaluation</th><th scope="col">Estimate</th><th scope="col">95 % interval</th><th scope="col">n</th><th scope="col">Against</th></tr>
        </thead>
        <tbody>
          {scores.map((score, index) => (
            <tr key={index} data-score={score.suite}>
              <th scope="row">{words(score.suite)}</th>
              <td class="figure">{number(score.estimate)}</td>
              <td><Interval score={score} /></td>
              <td class="figure">{score.n}</td>
              <td>{baseline(score, all)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function baseline(score: Score, all: Version[]): string {
  if (!score.baseline) return "";
  const version = all.find((one) => one.id === score.baseline || one.name === score.baseline);
  return version ? `v${version.number}` : score.baseline;
}

/** A dot with its whiskers; zero, where it is in reach, as a line. */
function Interval({ score }: { score: Score }) {
  const { estimate, ci_lo: low, ci_hi: high } = score;
  if (low == null || high == null) return <span class="quiet">–</span>;
  const from = Math.min(low, 0);
  const to = Math.max(high, low >= 0 && high <= 1 ? 1 : 0);
  const x = (value: number) => MARGIN + ((value - from) / (to - from || 1)) * (WIDTH - 2 * MARGIN);
  return (
    <span class="interval">
      <svg viewBox={`0 0 ${WIDTH} 16`} width={WIDTH} height="16" aria-hidden="true">
        <line class="zero" x1={x(0)} x2={x(0)} y1="1" y2="15" />
        <line class="whisker" x1={x(low)} x2={x(high)} y1="8" y2="8" />
        <circle cx={x(estimate)} cy="8" r="4" />
      </svg>
      <span class="figure">{number(low)} to {number(high)}</span>
    </span>
  );
}
