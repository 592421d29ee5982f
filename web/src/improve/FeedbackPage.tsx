/** Every piece of feedback, and for one of them: what it says and which versions it is in. */
import { useEffect, useRef, useState } from "preact/hooks";
import { api } from "../api";
import { Chip, VersionBadge } from "../components/Badge";
import { Button } from "../components/Button";
import { ask } from "../components/Confirm";
import { TopBar } from "../components/TopBar";
import { ago, plural, shortSha, when, words } from "../format";
import { go, link } from "../state/route";
import { me } from "../state/session";
import { attempt, toast } from "../state/toast";
import type { Feedback, FeedbackTrace } from "../types";

const KINDS: [string, string][] = [["", "All"], ["compare", "Comparisons"], ["thumb", "Thumbs"], ["edit", "Corrections"],
  ["demo", "Demonstrations"], ["flag", "Flags"]];
const NAMES: Record<string, string> = { compare: "Comparison", thumb: "Thumb", edit: "Correction", demo: "Demonstration", flag: "Flag" };

export function FeedbackPage({ id }: { id: string | null }) {
  return (
    <>
      <TopBar title="Feedback" />
      <div class="scroller">
        <div class="sheet">{id ? <FeedbackDetail key={id} id={id} /> : <FeedbackList />}</div>
      </div>
    </>
  );
}

function FeedbackList() {
  const [kind, setKind] = useState("");
  const [items, setItems] = useState<Feedback[] | null>(null);
  const [cursor, setCursor] = useState<string | null>(null);

  const asked = useRef(0);
  const load = async (after: string | null) => {
    const question = ++asked.current; // a slower answer to an older question is dropped
    const page = await attempt(() => api.feedback({ limit: 50, after, kind }));
    if (!page || question !== asked.current) return;
    setItems((before) => (after ? [...(before ?? []), ...page.data] : page.data));
    setCursor(page.has_more ? page.last_id : null);
  };
  useEffect(() => void load(null), [kind]);

  return (
    <section class="card" data-feedback-list={items ? items.length : "loading"}>
      <div class="segments wrap" role="group" aria-label="Kind of feedback">
        {KINDS.map(([name, label]) => (
          <button key={name} type="button" aria-pressed={kind === name} onClick={() => setKind(name)}>{label}</button>
        ))}
      </div>
      {!items ? <p class="hint">Reading…</p>
        : items.length ? <FeedbackRows feedback={items} /> : <p class="hint">Nothing here yet.</p>}
      {cursor && <Button onClick={() => void load(cursor)}>Show more</Button>}
    </section>
  );
}

export function FeedbackRows({ feedback }: { feedback: Feedback[] }) {
  return (
    <ul class="rows">
      {feedback.map((one) => (
        <li key={one.id} class="row" data-feedback={one.id}>
          <a href={link.feedbackItem(one.id)}>{NAMES[one.kind] ?? words(one.kind)}</a>
          <span class="row-text">{says(one)}</span>
          {!one.usable && one.why_not && <span class="quiet" title="Why it is not used for training">{one.why_not}</span>}
          <time class="quiet">{ago(one.created_at)}</time>
        </li>
      ))}
    </ul>
  );
}

const text = (value: unknown): string => (typeof value === "string" ? value : "");

/** One line about what was said. */
function says(one: Feedback): string {
  const { payload } = one;
  const comment = one.comment ?? "";
  if (one.kind === "thumb") {
    const reasons = one.reasons.map((reason) => words(reason).toLowerCase());
    const value = Number(payload.value);
    return [value > 0 ? "up" : value < 0 ? "down" : "taken back", ...reasons, comment].filter(Boolean).join(", ");
  }
  if (one.kind === "compare") {
    const said = { a: "A is better", b: "B is better", tie: "as good", both_bad: "both bad" }[text(payload.winner)] ?? text(payload.winner);
    return [said, comment].filter(Boolean).join(", ");
  }
  if (one.kind === "demo") return text(payload.content) || "an answer written by a person";
  return text(payload.content) || [text(payload.category), comment].filter(Boolean).join(", ");
}

function FeedbackDetail({ id }: { id: string }) {
  const [trace, setTrace] = useState<FeedbackTrace | "none" | null>(null);
  useEffect(() => void attempt(() => api.traceFeedback(id)).then((found) => setTrace(found ?? "none")), [id]);
  if (!trace) return <p class="hint">Reading…</p>;
  if (trace === "none") {
    return (
      <section class="card" data-feedback-missing>
        <h2>This feedback is not here</h2>
        <p>It was withdrawn, or belongs to somebody else. <a href={link.feedback}>All feedback</a></p>
      </section>
    );
  }
  const { feedback, rows, versions } = trace;
  const author = feedback.actor === me.value?.actor.id ? me.value.actor.handle : feedback.actor;
  return (
    <section class="card" data-feedback-detail={feedback.id}>
      <p><button type="button" class="link" onClick={() => go(link.feedback)}>All feedback</button></p>
      <header class="card-head">
        <h2>{NAMES[feedback.kind] ?? words(feedback.kind)}</h2>
        <Chip kind={feedback.usable ? "pass" : "insufficient"}>{feedback.usable ? "usable" : "not used"}</Chip>
      </header>
      <blockquote class="said" dir="auto">{says(feedback) || "–"}</blockquote>
      <dl class="facts">
        <dt>By</dt><dd>{author}</dd>
        <dt>Given</dt><dd>{when(feedback.created_at)}</dd>
        {feedback.why_not && <><dt>Not used</dt><dd>{feedback.why_not}</dd></>}
        {feedback.conversation_id && <><dt>Where</dt><dd><a href={link.chat(feedback.conversation_id)}>its chat</a></dd></>}
        <dt>Id</dt><dd><code>{feedback.id}</code></dd>
      </dl>
      <h3>Where it went</h3>
      {versions.length ? (
        <ul class="badges" data-trace-versions={versions.length}>{versions.map((one) => <li key={one.id}><VersionBadge version={one} /></li>)}</ul>
      ) : <p class="hint">It is in no version yet.</p>}
      {rows.length > 0 && (
        <ul class="rows">
          {rows.map((row, index) => (
            <li key={index} class="row">
              <code>{shortSha(row.snapshot_sha)}</code><span>{words(row.kind)}</span><Chip kind={row.split}>{words(row.split)}</Chip>
            </li>
          ))}
        </ul>
      )}
      <div class="actions"><Button look="danger" icon="trash" data-action="withdraw" onClick={() => void withdraw(id)}>Withdraw</Button></div>
    </section>
  );
}

async function withdraw(id: string): Promise<void> {
  const sure = await ask({
    title: "Withdraw this feedback?", body: "It is erased and enters no later version. Versions that already learned from it are named.",
    action: "Withdraw", danger: true,
  });
  if (sure === null) return;
  const gone = await attempt(() => api.eraseFeedback(id));
  if (!gone) return;
  const count = gone.tainted_versions.length;
  toast(count ? `Withdrawn. ${plural(count, "version")} had learned from it.` : "Withdrawn.");
  go(link.feedback);
}
