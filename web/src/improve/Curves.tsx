/** Curves of a job: what matters most large, every other signal small beside it. uPlot is loaded when the first curve is drawn. */
import { useEffect, useRef } from "preact/hooks";
import type uPlot from "uplot";
import { number } from "../format";
import { isDark } from "../state/preferences";
import { meaningOf, nameOf, ranked } from "./signals";

type Points = [number, number][];

export function Curves({ series }: { series: Record<string, Points> }) {
  const drawable = Object.keys(series).filter((name) => series[name]!.length > 1);
  const figures = Object.keys(series).filter((name) => series[name]!.length === 1).sort();
  const [shown, folded] = ranked(drawable);
  const draw = (names: string[], large: boolean) => names.map((name, index) => (
    <Curve key={`${name}/${isDark.value}`} name={name} points={series[name]!} large={large && index === 0} />
  ));
  return (
    <>
      {shown.length > 0 && <div class="curves" data-curves={shown.length}>{draw(shown, true)}</div>}
      {(folded.length > 0 || figures.length > 0) && (
        <details class="more">
          <summary>All signals</summary>
          {figures.length > 0 && (
            <dl class="figures">
              {figures.map((name) => <div key={name}><dt>{nameOf(name)}</dt><dd>{number(series[name]![0]![1])}</dd></div>)}
            </dl>
          )}
          {folded.length > 0 && <div class="curves">{draw(folded, false)}</div>}
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
      plot.current = draw(box, nameOf(name), latest.current);
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
  const meaning = meaningOf(name);
  return (
    <figure class={`curve ${large ? "large" : ""}`} data-curve={name}>
      <figcaption>
        <span>{nameOf(name)}</span>
        <strong>{number(last[1])}</strong>
      </figcaption>
      {meaning && <p class="curve-meaning">{meaning}</p>}
      <div class="plot" ref={place} role="img"
        aria-label={`${nameOf(name)}: ${points.length} points, from ${number(points[0]![1])} to ${number(last[1])} at step ${last[0]}`} />
    </figure>
  );
}
