/** One training job, live: stage, step, time left, curves, health; and what came out of it. */
import { ask } from "../components/Confirm";
import { Button } from "../components/Button";
import { Chip } from "../components/Badge";
import { Icon } from "../components/Icon";
import { duration, shortSha, words } from "../format";
import { cancel, isOver, pause, resume } from "../state/learning";
import { link } from "../state/route";
import type { Job } from "../types";
import { Curves } from "./Curves";
import { Samples } from "./Samples";

/** What each stage does, for people who do not train models. */
const STAGES: Record<string, string> = {
  collect: "Collecting what people taught",
  head: "Learning what people prefer",
  replay: "Asking the base what it already can",
  imitate: "Imitating what people wrote",
  candidates: "Writing new answers to choose from",
  pairs: "Pairing the best answers with the worst",
  train: "Training",
  reinforce: "Answering, being judged, learning",
  guard: "Checking that it did not drift",
  evaluate: "Evaluating on what was held out",
  judge: "Judging",
};

export function JobPanel({ job }: { job: Job }) {
  const over = isOver(job);
  const pausing = job.pause_requested && !over && job.status !== "paused";
  const stop = async () => {
    const sure = await ask({
      title: "Cancel this job?", body: "It stops after the step it is at. Nothing that people taught is lost.", action: "Cancel the job", danger: true,
    });
    if (sure !== null) await cancel(job.id);
  };
  return (
    <section class="card job" aria-label="Training job" data-job={job.id} data-status={job.status}>
      <header class="card-head">
        <h2>{job.method?.type === "improve" || !job.method ? (over ? "Improvement" : "Improving") : words(job.method.type)}</h2>
        <Chip kind={job.status}>{pausing ? "pausing" : words(job.status).toLowerCase()}</Chip>
        <span class="spread" />
        {!over && (job.pause_requested
          ? <Button look="quiet" data-action="resume-job" onClick={() => void resume(job.id)}>Resume</Button>
          : <Button look="quiet" data-action="pause-job" onClick={() => void pause(job.id)}>Pause</Button>)}
        {!over && <Button look="quiet" data-action="cancel-job" onClick={() => void stop()}>Cancel</Button>}
      </header>
      {!over && <Progress job={job} />}
      {job.progress?.health && !over && <p class="health">{job.progress.health}</p>}
      {job.error?.message && <p class="ending" role="alert"><Icon name="warning" /><span>{job.error.message}</span></p>}
      {job.version_id && over && (
        <p class="outcome">
          A new version is ready to be judged. <a href={link.version(job.version_id)} data-action="open-version">See its scores and verdict</a>
        </p>
      )}
      {job.series && Object.keys(job.series).length > 0 && <Curves series={job.series} />}
      {job.progress?.samples && job.progress.samples.length > 0 && <Samples samples={job.progress.samples} />}
      <p class="small-print">
        <code>{job.id}</code>
        {job.snapshot_sha && <> · snapshot <code>{shortSha(job.snapshot_sha)}</code></>}
      </p>
    </section>
  );
}

function Progress({ job }: { job: Job }) {
  const at = job.progress;
  if (job.status === "paused") return <p class="hint">Paused. It goes on from its last checkpoint when you resume it.</p>;
  if (!at) return <p class="hint">Waiting for the worker.</p>;
  const place = at.stages.indexOf(at.stage ?? "");
  const total = at.total_steps ?? 0;
  return (
    <div class="progress">
      {at.stages.length > 0 && (
        <ol class="stages" aria-label="Stages">
          {at.stages.map((stage, index) => (
            <li key={stage} class={index < place ? "done" : index === place ? "now" : ""} aria-current={index === place ? "step" : undefined}>
              {words(stage)}
            </li>
          ))}
        </ol>
      )}
      <div class="progress-line">
        <strong data-stage={at.stage ?? ""}>{at.stage ? (STAGES[at.stage] ?? words(at.stage)) : "Queued"}</strong>
        {total > 0 && <span data-step>step {at.step ?? 0} of {total}</span>}
        <span class="spread" />
        {at.eta_s != null && <span data-eta>about {duration(at.eta_s)} left</span>}
      </div>
      <progress max={total || 1} value={total ? (at.step ?? 0) : undefined} aria-label="Progress of this stage" />
    </div>
  );
}
