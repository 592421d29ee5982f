/** Curves of a job: the loss large, every other signal small beside it. uPlot is loaded when the first curve is drawn. */
import { useEffect, useRef } from "preact/hooks";
import type uPlot from "uplot";
import { number, words } from "../format";
import { isDark } from "../state/preferences";

type Points = [number, number][];

/**
 * What is drawn first: the reward where there is one (its loss is about 0 by construction and says nothing), else the
 * loss; then what tells whether it learns the right thing and stays itself.
 */
const FIRST = [
  /^reward$/, /^dpo_loss$/, /^loss$/, /^kl$|teacher_kl/, /entropy/, /^length$/, /accuracy/, /margin/, /loss/, /^reward\//,
  /zero_variance/, /clip_fraction/, /sampler_gap/, /grad_norm/,
];
const SHOWN = 7;

const rank = (name: string): number => {
  const found = FIRST.findIndex((pattern) => pattern.test(name));
  return found < 0 ? FIRST.length : found;
};

export function Curves({ series }: { series: Record<string, Points> }) {
  const all = Object.entries(series).sort(([a], [b]) => rank(a) - rank(b) || a.localeCompare(b));
  const curves = all.filter(([, points]) => points.length > 1);
  const figures = all.filter(([, points]) => points.length === 1);
  const draw = (drawn: [string, Points][], large: boolean) =>
    drawn.map(([name, points], index) => (
      <Curve key={`${name}/${isDark.value}`} name={name} points={points} large={large && index === 0} />
    ));
  return (
    <>
      {curves.length > 0 && <div class="curves" data-curves={curves.length}>{draw(curves.slice(0, SHOWN), true)}</div>}
      {(curves.length > SHOWN || figures.length > 0) && (
        <details class="more">
          <summary>All signals</summary>
          <dl class="figures">
            {figures.map(([name, points]) => <div key={name}><dt>{words(name)}</dt><dd>{number(points[0]![1])}</dd></div>)}
          </dl>
          {curves.length > SHOWN && <div class="curves">{draw(curves.slice(SHOWN), false)}</div>}
        </details>
      )}
    </>
  );
}

function Curve({ name, points, large }: { name: string; points: Points; large: boolean }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const data: uPlot.AlignedData = [points.map(([step]) => step), points.map(([, value]) => value)];
  const latest = useRef(data);
  latest.current = data;

  useEffect(() => {
    let gone = false;
    const box = place.current!;
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: box.clientWidth, height: box.clientHeight }));
    void import("./chart").then(({ draw }) => {
      if (gone) return;
      plot.current = draw(box, words(name), latest.current);
      resized.observe(box);
    });
    return () => {
      gone = true;
      resized.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, []);
  useEffect(() => plot.current?.setData(data), [points]);

  const last = points.at(-1)!;
  return (
    <figure class={`curve ${large ? "large" : ""}`} data-curve={name}>
      <figcaption>
        <span>{words(name)}</span>
        <strong>{number(last[1])}</strong>
      </figcaption>
      <div class="plot" ref={place} role="img"
        aria-label={`${words(name)}: ${points.length} points, from ${number(points[0]![1])} to ${number(last[1])} at step ${last[0]}`} />
    </figure>
  );
}
