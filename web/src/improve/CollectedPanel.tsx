/** What was collected since the last version: what is usable, why the rest is not, and the button. */
import { plural, words } from "../format";
import { VersionBadge } from "../components/Badge";
import { Button } from "../components/Button";
import { collected, startImproving } from "../state/learning";
import { link } from "../state/route";
import type { Collected } from "../types";

const KINDS: [string, string][] = [["compare", "Comparisons"], ["thumb", "Thumbs"], ["edit", "Corrections"], ["demo", "Demonstrations"]];
const ROWS: Record<string, string> = { pair: "preference pairs", sft: "answers to imitate", unpaired: "rated answers" };

export function CollectedPanel({ busy }: { busy: boolean }) {
  const found = collected.value;
  if (!found) return <section class="card" aria-busy="true"><p class="hint">Counting…</p></section>;
  const usable = Object.values(found.usable).reduce((sum, count) => sum + count, 0);
  const disabled = busy || !found.ready || found.running_job !== null;
  return (
    <section class="card" data-collected data-ready={String(found.ready)}>
      <header class="card-head">
        <h2>Taught since {found.since ? <VersionBadge version={found.since} /> : "the beginning"}</h2>
        <a href={link.feedback}>See every piece</a>
      </header>
      <ul class="tiles">
        {KINDS.map(([kind, label]) => (
          <li key={kind} class="tile" data-count={kind}>
            <strong>{found.counts[kind] ?? 0}</strong>
            <span>{label}</span>
          </li>
        ))}
      </ul>
      <div class="columns">
        <Usable found={found} total={usable} />
        <Unusable found={found} total={usable} />
      </div>
      <div class="launch">
        <Button look="primary" icon="growth" data-action="improve" disabled={disabled} onClick={() => void startImproving()}>
          {busy ? "Improving…" : "Improve"}
        </Button>
        <p>{found.advice}</p>
      </div>
    </section>
  );
}

function Usable({ found, total }: { found: Collected; total: number }) {
  const { rows, people, conversations } = found.held_out;
  return (
    <div>
      <h3>Usable</h3>
      {total === 0 ? <p class="hint">Nothing yet.</p> : (
        <ul class="counts">
          {Object.entries(found.usable).filter(([, count]) => count > 0).map(([kind, count]) => (
            <li key={kind}><strong>{count}</strong> {ROWS[kind] ?? words(kind).toLowerCase()}</li>
          ))}
        </ul>
      )}
      {rows > 0 && (
        <p class="hint">
          Of these, {plural(rows, "row")} of {plural(people, "person", "people")} in {plural(conversations, "conversation")} are
          held out: never trained on, only used to check.
        </p>
      )}
    </div>
  );
}

function Unusable({ found, total }: { found: Collected; total: number }) {
  return (
    <div>
      <h3>Not usable</h3>
      {!found.unusable.length ? <p class="hint">{total ? "Everything can be used." : "Nothing."}</p> : (
        <ul class="counts" data-unusable>
          {found.unusable.map(({ reason, count }) => <li key={reason}><strong>{count}</strong> {reason}</li>)}
        </ul>
      )}
    </div>
  );
}
