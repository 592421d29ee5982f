/** One line over steps, drawn by uPlot in the page's own colours. Knows nothing of jobs. */
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

/** Between two marks below: there is no step one and a half. */
const STEPS = [1, 10, 100, 1000, 10_000].flatMap((size) => [size, 2 * size, 5 * size]);

/** What the scale shows of values from `low` to `high`; a line that never moves lies in its middle, one of zeros at its foot. */
function span(low: number, high: number): uPlot.Range.MinMax {
  if (low < high) return uPlot.rangeNum(low, high, 0.1, true);
  return low === 0 ? [0, 1] : [low - Math.abs(low) / 2, low + Math.abs(low) / 2];
}

/** Draw `data` (steps, values) into `place`, which has its size from the style sheet. */
export function draw(place: HTMLElement, label: string, data: uPlot.AlignedData): uPlot {
  // A canvas does not know custom properties: the element resolves them.
  const colour = (name: string): string => {
    place.style.color = `var(${name})`;
    return getComputedStyle(place).color;
  };
  const axis: uPlot.Axis = {
    stroke: colour("--ink-soft"),
    font: "11px 'Inter Variable', sans-serif",
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    size: 26,
  };
  return new uPlot(
    {
      width: place.clientWidth,
      height: place.clientHeight,
      padding: [8, 10, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: false }, y: { range: (_, low, high) => span(low, high) } },
      axes: [{ ...axis, space: 48, incrs: STEPS }, { ...axis, size: 46, space: 26 }],
      series: [
        {},
        { label, stroke: colour("--accent"), width: 2, fill: colour("--accent-wash"), points: { show: data[0].length < 3 } },
      ],
    },
    data,
    place,
  );
}
