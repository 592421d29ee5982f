/** One version: where it comes from, how it scored, what the gate says, and what a person may do about it. */
import { api } from "../api";
import { Chip, VersionBadge } from "../components/Badge";
import { Button } from "../components/Button";
import { ask } from "../components/Confirm";
import { plural, shortSha, when } from "../format";
import { decide } from "../state/learning";
import { go, link } from "../state/route";
import { askForTwo, temporary } from "../state/thread";
import type { Version } from "../types";
import { GateView } from "./GateView";
import { Scores } from "./Scores";

interface VersionCardProps {
  version: Version;
  all: Version[];
  onRollBack: () => Promise<void>;
}

export function VersionCard({ version, all, onRollBack }: VersionCardProps) {
  const parent = all.find((one) => one.id === version.parent_id);
  return (
    <section class="card version" data-version-detail={version.number} data-state={version.state}>
      <header class="card-head">
        <h2>{version.name}</h2>
        <Chip kind={version.state}>{version.state}</Chip>
      </header>
      <dl class="facts">
        <dt>Made</dt><dd>{when(version.created_at)}</dd>
        {parent && <><dt>Parent</dt><dd><VersionBadge version={parent} /></dd></>}
        {version.snapshot_sha && <><dt>Snapshot</dt><dd><code title={version.snapshot_sha}>{shortSha(version.snapshot_sha)}</code></dd></>}
        {version.job_id && <><dt>Job</dt><dd><a href={link.job(version.job_id)}><code>{version.job_id}</code></a></dd></>}
        <dt>Weights</dt><dd><code title={version.weights_sha256}>{shortSha(version.weights_sha256)}</code></dd>
        {version.kind !== "base" && <><dt>Feedback</dt><dd>{version.feedback_count}{erased(version)}</dd></>}
      </dl>
      {version.gate && <GateView gate={version.gate} />}
      {version.scores.length > 0 && <Scores scores={version.scores} all={all} />}
      <Decisions version={version} onRollBack={onRollBack} />
    </section>
  );
}

function Decisions({ version, onRollBack }: { version: Version; onRollBack: () => Promise<void> }) {
  if (version.state === "live" && version.kind !== "base") {
    return (
      <div class="actions start">
        <Button icon="back" data-action="rollback" onClick={() => void onRollBack()}>Roll back to the version before</Button>
      </div>
    );
  }
  if (version.state !== "candidate") return null;
  const passed = version.gate?.verdict === "pass";
  return (
    <div class="actions start">
      {passed
        ? <Button look="primary" icon="check" data-action="promote" onClick={() => void promote(version)}>Promote</Button>
        : <Button data-action="override" onClick={() => void override(version)}>Promote all the same…</Button>}
      {version.gate?.verdict === "insufficient" && (
        <Button look="primary" icon="two" data-action="collect-votes" onClick={collectVotes}>Collect votes</Button>
      )}
      <Button look="quiet" data-action="judge" onClick={() => void decide(() => api.judge(version.id), "Judged again, with all votes so far.")}>
        Judge again
      </Button>
      <span class="spread" />
      <Button look="danger" data-action="reject" onClick={() => void reject(version)}>Reject</Button>
    </div>
  );
}

function erased(version: Version): string {
  return version.erased_count ? `, ${version.erased_count} erased since: improve again to leave them out` : "";
}

async function promote(version: Version): Promise<void> {
  const learned = version.erased_count ? ` ${plural(version.erased_count, "piece")} of the feedback that made it were erased since.` : "";
  const reason = await ask({
    title: `Promote version ${version.number}?`,
    body: `It answers every new message from now on. You can roll back in one click.${learned}`,
    action: "Promote", reason: "optional",
  });
  if (reason !== null) await decide(() => api.promote(version.id, reason ? { reason } : {}), `Version ${version.number} is live.`);
}

async function override(version: Version): Promise<void> {
  const verdict = version.gate ? `The gate says ${version.gate.verdict}.` : "The gate has not judged this version.";
  const reason = await ask({
    title: `Promote version ${version.number} against the gate?`, body: `${verdict} Your reason is kept with the promotion.`,
    action: "Promote all the same", danger: true, reason: "required",
  });
  if (reason !== null) await decide(() => api.promote(version.id, { reason, override: true }), `Version ${version.number} is live.`);
}

async function reject(version: Version): Promise<void> {
  const reason = await ask({
    title: `Reject version ${version.number}?`, body: "It will not be offered again. The feedback that made it stays.",
    action: "Reject", danger: true, reason: "required",
  });
  if (reason !== null) await decide(() => api.reject(version.id, reason), `Version ${version.number} is rejected.`);
}

function collectVotes(): void {
  temporary.value = false;
  askForTwo.value = true;
  go(link.newChat);
}
