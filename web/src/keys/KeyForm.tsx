/** Makes a key: its name, what it may do, how long. */
import { useId, useState } from "preact/hooks";
import { Button } from "../components/Button";
import { addKey } from "../state/keys";

const DAY = 86_400;
const ENDS: [string, number | null][] = [["never", null], ["in 7 days", 7 * DAY], ["in 30 days", 30 * DAY], ["in 90 days", 90 * DAY], ["in a year", 365 * DAY]];

/** What can be granted one by one, as the server groups its routes. */
const GROUPS: [string, string, string[]][] = [
  ["model", "Models and answers", ["request", "read", "write"]],
  ["responses", "Stored answers and conversations", ["read", "write"]],
  ["files", "Files", ["read", "write"]],
  ["fine_tuning", "Fine-tuning", ["read", "write"]],
  ["evals", "Evals", ["read", "write"]],
  ["batches", "Batches", ["read", "write"]],
  ["webhooks", "Webhooks", ["read", "write"]],
  ["tutee", "Chats, feedback and versions of this page", ["read", "write"]],
];
const VERBS: Record<string, string> = { request: "ask", read: "read", write: "read and write" };

type Reach = "all" | "all.read" | "some";
const REACHES: [Reach, string][] = [["all", "Everything"], ["all.read", "Read everything"], ["some", "Only what I choose"]];

export function KeyForm() {
  const [name, setName] = useState("");
  const [end, setEnd] = useState(0);
  const [reach, setReach] = useState<Reach>("all");
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set(["model.request"]));
  const [busy, setBusy] = useState(false);
  const id = useId();
  const ready = name.trim() !== "" && !busy && (reach !== "some" || chosen.size > 0);

  const make = async () => {
    if (!ready) return;
    setBusy(true);
    const scopes = { all: null, "all.read": ["all.read"], some: [...chosen] }[reach];
    if (await addKey({ name: name.trim(), scopes, seconds: ENDS[end]![1] })) {
      setName("");
      document.querySelector("[data-fresh-key]")?.scrollIntoView({ block: "nearest" });
    }
    setBusy(false);
  };
  return (
    <section class="card" aria-labelledby={`${id}-head`}>
      <h2 id={`${id}-head`}>Make a key</h2>
      <form class="stack" data-key-form onSubmit={(event) => {
        event.preventDefault();
        void make();
      }}>
        <div class="field-row">
          <div class="field">
            <label for={id}>Name</label>
            <input id={id} value={name} maxLength={200} required placeholder="What uses it" autocomplete="off"
              onInput={(event) => setName(event.currentTarget.value)} />
          </div>
          <div class="field">
            <label for={`${id}-end`}>Ends</label>
            <select id={`${id}-end`} value={end} onChange={(event) => setEnd(Number(event.currentTarget.value))}>
              {ENDS.map(([label], index) => <option key={label} value={index}>{label}</option>)}
            </select>
          </div>
        </div>
        <fieldset class="options">
          <legend>What it may do</legend>
          {REACHES.map(([value, label]) => (
            <label key={value} class="option">
              <input type="radio" name={`${id}-reach`} value={value} checked={reach === value} data-reach={value} onChange={() => setReach(value)} />
              <span>{label}</span>
            </label>
          ))}
        </fieldset>
        {reach === "some" && <Scopes chosen={chosen} onChange={setChosen} />}
        <div class="actions">
          <Button type="submit" look="primary" icon="plus" disabled={!ready} data-action="create-key">Make the key</Button>
        </div>
      </form>
    </section>
  );
}

function Scopes({ chosen, onChange }: { chosen: ReadonlySet<string>; onChange: (chosen: ReadonlySet<string>) => void }) {
  const flip = (scope: string) => onChange(new Set(chosen.has(scope) ? [...chosen].filter((one) => one !== scope) : [...chosen, scope]));
  return (
    <div class="scopes">
      {GROUPS.map(([group, label, verbs]) => (
        <fieldset key={group}>
          <legend>{label}</legend>
          {verbs.map((verb) => {
            const scope = `${group}.${verb}`;
            return (
              <label key={scope} class="option">
                <input type="checkbox" checked={chosen.has(scope)} data-scope={scope} onChange={() => flip(scope)} />
                <span>{VERBS[verb]}</span>
              </label>
            );
          })}
        </fieldset>
      ))}
    </div>
  );
}
