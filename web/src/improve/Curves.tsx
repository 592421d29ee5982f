/** Curves of a job: the loss large, every other signal small beside it. uPlot is loaded when the first curve is drawn. */
import { useEffect, useRef } from "preact/hooks";
import type uPlot from "uplot";
import { number, words } from "../format";
import { isDark } from "../state/preferences";

type Points = [number, number][];

/** Losses first, then by name. */
function order([a]: [string, Points], [b]: [string, Points]): number {
  return Number(/loss/.test(b)) - Number(/loss/.test(a)) || a.localeCompare(b);
}

export function Curves({ series }: { series: Record<string, Points> }) {
  const drawn = Object.entries(series).filter(([, points]) => points.length > 0).sort(order);
  return (
    <div class="curves" data-curves={drawn.length}>
      {drawn.map(([name, points], index) => <Curve key={`${name}/${isDark.value}`} name={name} points={points} large={index === 0} />)}
    </div>
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
