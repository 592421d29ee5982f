/** Improve: what people taught since the last version, one button, and the job that turns it into a new one. */
import { useEffect } from "preact/hooks";
import { Away } from "../components/Away";
import { TopBar } from "../components/TopBar";
import { ago, words } from "../format";
import { collected, isOver, jobs, loadLearning, unheard, unwatch, watch, watched } from "../state/learning";
import { link } from "../state/route";
import { Chip } from "../components/Badge";
import { Circle } from "./Circle";
import { CollectedPanel } from "./CollectedPanel";
import { JobPanel } from "./JobPanel";

export function ImprovePage({ id }: { id: string | null }) {
  useEffect(() => {
    let gone = false;
    if (id) watch(id);
    void loadLearning().then(() => {
      if (gone) return;
      const running = collected.value?.running_job ?? jobs.value.find((job) => !isOver(job))?.id;
      if (!id && running) watch(running);
    });
    return () => {
      gone = true;
      unwatch();
    };
  }, [id]);
  const job = watched.value;
  return (
    <>
      <TopBar title="Improve" />
      {unheard.value && <Away />}
      <div class="scroller">
        <div class="sheet">
          <Circle job={job} />
          {job && <JobPanel job={job} />}
          <CollectedPanel busy={job !== null && !isOver(job) && job.status !== "paused"} />
          <RecentJobs />
        </div>
      </div>
    </>
  );
}

function RecentJobs() {
  if (!jobs.value.length) return null;
  return (
    <section class="card">
      <h2>Jobs</h2>
      <ul class="rows">
        {jobs.value.map((job) => (
          <li key={job.id} class="row" data-job-row={job.id}>
            <a href={link.job(job.id)}>{words(job.method?.type ?? "job")}</a>
            <code class="quiet row-text">{job.id}</code>
            <Chip kind={job.status}>{words(job.status).toLowerCase()}</Chip>
            {job.version_id && <a href={link.version(job.version_id)}>its version</a>}
            <time class="quiet">{ago(job.created_at)}</time>
          </li>
        ))}
      </ul>
    </section>
  );
}
