/** The circle that the whole product turns in, and how far the running job has come in it. */
import { useLayoutEffect, useRef } from "preact/hooks";
import { isOver } from "../state/learning";
import type { Job } from "../types";

const STATIONS = ["Chat", "Feedback", "Snapshot", "Training", "New version", "Evaluation", "Gate", "Promotion"];

/** Which station a job is at, from the name of its stage; later names win over "training". */
function station(job: Job | null): number {
  if (!job) return -1;
  if (job.status === "succeeded") return 7;
  const stage = (job.progress?.stage ?? "collect").toLowerCase();
  const places: [RegExp, number][] = [[/gate|judg|verdict/, 6], [/eval|probe|measure/, 5], [/regist|version|save/, 4], [/collect|freez|snap/, 2]];
  return places.find(([name]) => name.test(stage))?.[1] ?? 3;
}

export function Circle({ job }: { job: Job | null }) {
  const at = station(job);
  const running = job !== null && !isOver(job);
  const place = useRef<HTMLOListElement>(null);
  // On a narrow screen the line is longer than the page.
  useLayoutEffect(() => {
    const now = place.current!.children[at] as HTMLElement | undefined;
    if (now) place.current!.scrollLeft = now.offsetLeft - place.current!.offsetLeft - now.offsetWidth;
  }, [at]);
  return (
    <ol ref={place} class="circle" aria-label="How the assistant learns">
      {STATIONS.map((name, index) => (
        <li key={name} class={index < at ? "done" : index === at && running ? "now" : ""} aria-current={index === at && running ? "step" : undefined}>
          {name}
        </li>
      ))}
    </ol>
  );
}
