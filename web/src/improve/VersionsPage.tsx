/** Versions: the line from the base model to the one that answers, and one version in full with what made it. */
import { useEffect, useState } from "preact/hooks";
import { api } from "../api";
import { Chip, VersionBadge } from "../components/Badge";
import { Button } from "../components/Button";
import { ask } from "../components/Confirm";
import { TopBar } from "../components/TopBar";
import { ago, plural } from "../format";
import { decide, loadLearning, versions } from "../state/learning";
import { go, link } from "../state/route";
import { attempt } from "../state/toast";
import type { Version, VersionTrace } from "../types";
import { FeedbackRows } from "./FeedbackPage";
import { VersionCard } from "./VersionCard";

export function VersionsPage({ id }: { id: string | null }) {
  const [read, setRead] = useState(false);
  useEffect(() => void loadLearning().then(() => setRead(true)), []);
  const all = versions.value;
  const chosen = id && all?.find((one) => one.id === id || one.name === id || String(one.number) === id);
  return (
    <>
      <TopBar title={chosen ? `Version ${chosen.number}` : "Versions"} />
      <div class="scroller">
        <div class="sheet">
          {!all || (id && !chosen && !read) ? <p class="hint">Reading…</p>
            : id ? (chosen ? <VersionDetail key={chosen.id} version={chosen} all={all} /> : <p>There is no version “{id}”.</p>)
            : <Timeline all={all} />}
        </div>
      </div>
    </>
  );
}

async function rollBack(): Promise<void> {
  const reason = await ask({
    title: "Roll back?", body: "The version that was live before answers again from the next message on. Running answers are finished first.",
    action: "Roll back", reason: "optional",
  });
  if (reason !== null) await decide(() => api.rollback(reason), "Rolled back.");
}

/** A fine-tuning job saves versions on its way; they are listed apart. */
const isCheckpoint = (version: Version): boolean => /:ckpt-step-\d+$/.test(version.name);

function Timeline({ all }: { all: Version[] }) {
  const newestFirst = [...all].sort((a, b) => b.number - a.number);
  const whole = newestFirst.filter((one) => !isCheckpoint(one));
  const checkpoints = newestFirst.filter(isCheckpoint);
  const canRollBack = whole.some((one) => one.state === "archived");
  return (
    <>
      <div class="sheet-head">
        <p>Every version is made from the base model and everything that was taught until then. A person decides which one answers.</p>
        <Button icon="back" data-action="rollback" disabled={!canRollBack} onClick={() => void rollBack()}>Roll back</Button>
      </div>
      <ol class="timeline" data-versions={whole.length}>
        {whole.map((version) => <TimelineRow key={version.id} version={version} all={all} />)}
      </ol>
      {checkpoints.length > 0 && (
        <details class="more" data-checkpoints={checkpoints.length}>
          <summary>{plural(checkpoints.length, "checkpoint")} of training jobs</summary>
          <ol class="timeline">
            {checkpoints.map((version) => <TimelineRow key={version.id} version={version} all={all} />)}
          </ol>
        </details>
      )}
    </>
  );
}

function TimelineRow({ version, all }: { version: Version; all: Version[] }) {
  return (
    <li class={version.state} data-version-row={version.number} data-state={version.state}>
      <div class="timeline-head">
        <VersionBadge version={version} />
        <Chip kind={version.state}>{version.state}</Chip>
        {version.gate && <Chip kind={version.gate.verdict}>{version.gate.verdict}</Chip>}
        <span class="spread" />
        <time class="quiet">{ago(version.created_at)}</time>
      </div>
      <p class="timeline-name"><a href={link.version(version.id)}>{version.name}</a></p>
      <p class="quiet">{lineage(version, all)}</p>
    </li>
  );
}

function lineage(version: Version, all: Version[]): string {
  if (version.kind === "base") return "the base model";
  const parent = all.find((one) => one.id === version.parent_id);
  const made = version.feedback_count ? `, made from ${plural(version.feedback_count, "piece")} of feedback` : "";
  return `${version.kind === "adapter" ? "an adapter" : "full weights"} from ${parent ? `v${parent.number}` : "the base"}${made}`;
}

function VersionDetail({ version, all }: { version: Version; all: Version[] }) {
  const [trace, setTrace] = useState<VersionTrace | null>(null);
  useEffect(() => {
    if (version.kind !== "base") void attempt(() => api.traceVersion(version.id)).then((found) => found && setTrace(found));
  }, []);
  return (
    <>
      <p><button type="button" class="link" onClick={() => go(link.versions)}>All versions</button></p>
      <VersionCard version={version} all={all} onRollBack={rollBack} />
      {trace && (
        <section class="card">
          <h2>Feedback that made it</h2>
          {trace.feedback.length ? <FeedbackRows feedback={trace.feedback} /> : <p class="hint">None.</p>}
        </section>
      )}
    </>
  );
}
