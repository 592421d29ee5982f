/** Keys: which scripts may use this server, what they may do and until when. For whoever runs it. */
import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Chip } from "../components/Badge";
import { Button } from "../components/Button";
import { ask } from "../components/Confirm";
import { CopyButton } from "../components/CopyButton";
import { Icon } from "../components/Icon";
import { TopBar } from "../components/TopBar";
import { ago, when } from "../format";
import { addProject, choose, fresh, keys, loadProjects, project, projects, revoke } from "../state/keys";
import { me } from "../state/session";
import type { ApiKey } from "../types";
import { KeyForm } from "./KeyForm";

export function KeysPage() {
  useEffect(() => {
    if (me.value?.operator) void loadProjects();
    return () => void (fresh.value = null);
  }, []);
  return (
    <>
      <TopBar title="Keys" />
      <div class="scroller">
        <div class="sheet" data-keys={keys.value ? keys.value.length : "loading"}>
          {!me.value?.operator ? <p class="hint">Keys are for whoever runs this server.</p> : (
            <>
              <Projects />
              {fresh.value && <Fresh name={fresh.value.name} value={fresh.value.value} />}
              {project.value && <KeyList />}
              {project.value && <KeyForm />}
            </>
          )}
        </div>
      </div>
    </>
  );
}

/** Files, jobs, chats and versions of one project are not seen from another. */
function Projects() {
  const [naming, setNaming] = useState(false);
  const all = projects.value ?? [];
  return (
    <>
      <div class="sheet-head">
        <p>
          A key lets a script or another machine use this server. All keys of a project share its files, jobs and chats; other
          projects see none of them.
        </p>
        {!naming && <Button icon="plus" data-action="new-project" onClick={() => setNaming(true)}>New project</Button>}
      </div>
      {naming && <ProjectForm onDone={() => setNaming(false)} />}
      {all.length > 1 && (
        <div class="segments wrap" role="group" aria-label="Project">
          {all.map((one) => (
            <button key={one.id} type="button" aria-pressed={one.id === project.value?.id} data-project={one.id} onClick={() => void choose(one)}>
              {one.name}
            </button>
          ))}
        </div>
      )}
    </>
  );
}

function ProjectForm({ onDone }: { onDone: () => void }) {
  const [name, setName] = useState("");
  const field = useRef<HTMLInputElement>(null);
  const id = useId();
  useLayoutEffect(() => field.current!.focus(), []);
  return (
    <form class="card" onSubmit={async (event) => {
      event.preventDefault();
      if (name.trim() && (await addProject(name.trim()))) onDone();
    }}>
      <div class="field">
        <label for={id}>Name of the project</label>
        <input id={id} ref={field} value={name} maxLength={200} required onInput={(event) => setName(event.currentTarget.value)} />
      </div>
      <div class="actions">
        <Button look="quiet" onClick={onDone}>Cancel</Button>
        <Button type="submit" look="primary" disabled={!name.trim()} data-action="create-project">Create</Button>
      </div>
    </form>
  );
}

/** The only time that a key can be read. */
function Fresh({ name, value }: { name: string; value: string }) {
  return (
    <section class="card fresh" role="status" aria-label={`The new key ${name}`} data-fresh-key>
      <h2>Keep this key now</h2>
      <p>It is shown this once. The server keeps only a fingerprint of it.</p>
      <div class="fresh-value">
        <code>{value}</code>
        <CopyButton text={value} />
      </div>
      <div class="actions"><Button onClick={() => (fresh.value = null)} data-action="kept">I have kept it</Button></div>
    </section>
  );
}

function KeyList() {
  const all = keys.value;
  return (
    <section class="card" aria-label="Keys of this project">
      <h2>{project.value!.name}</h2>
      {!all ? <p class="hint">Reading…</p> : !all.length ? <p class="hint">No key yet. Make the first one below.</p> : (
        <ul class="rows keys">{all.map((one) => <KeyRow key={one.id} row={one} />)}</ul>
      )}
    </section>
  );
}

function KeyRow({ row }: { row: ApiKey }) {
  const ended = row.expires_at !== null && row.expires_at * 1000 <= Date.now();
  const takeBack = async () => {
    const sure = await ask({
      title: "Revoke this key?", body: `Whatever uses “${row.name}” is turned away from now on. A revoked key does not come back.`,
      action: "Revoke", danger: true,
    });
    if (sure !== null) await revoke(row);
  };
  const owner = row.owner.user?.name;
  return (
    <li class="key-row" data-key={row.id}>
      <div>
        <p class="key-name"><strong dir="auto">{row.name}</strong> <code>{row.redacted_value}</code></p>
        <p class="quiet">
          {[owner && `of ${owner}`, row.last_used_at ? `used ${ago(row.last_used_at)}` : "never used", ended ? "expired" : row.expires_at ? `until ${when(row.expires_at)}` : "no end"]
            .filter(Boolean).join(" · ")}
        </p>
        <ul class="badges" aria-label="What it may do">
          {ended && <li><Chip kind="revoked">expired</Chip></li>}
          {row.scopes.map((scope) => <li key={scope}><Chip kind={scope === "all" ? "insufficient" : ""}>{SCOPE_NAMES[scope] ?? scope}</Chip></li>)}
        </ul>
      </div>
      <button type="button" class="button danger" data-action="revoke" aria-label={`Revoke ${row.name}`} onClick={() => void takeBack()}>
        <Icon name="trash" />
        <span>Revoke</span>
      </button>
    </li>
  );
}

const SCOPE_NAMES: Record<string, string> = { all: "everything", "all.read": "read everything", "model.request": "ask models" };
