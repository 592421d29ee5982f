/** Settings: consent, looks, sampling, who is sitting here, and taking one's data along. */
import { signal } from "@preact/signals";
import { useId, useState } from "preact/hooks";
import { api } from "../api";
import { type Theme, sampling, systemPrompt, theme } from "../state/preferences";
import { once } from "../state/once";
import { becomeActor, eraseMe, me, setConsent } from "../state/session";
import { attempt, toast } from "../state/toast";
import type { Sampling } from "../types";
import { Button } from "./Button";
import { ask } from "./Confirm";
import { Dialog } from "./Dialog";

const shown = signal(false);

export const openSettings = (): void => void (shown.value = true);

export function Settings() {
  if (!shown.value) return null;
  return (
    <Dialog title="Settings" name="settings" onClose={() => (shown.value = false)}>
      <div class="stack wide">
        <Consent />
        <Looks />
        <Answers />
        <Person />
        <section class="setting">
          <h3>Your data</h3>
          <p class="hint">One archive with all your chats and all feedback you gave; or nothing left of them.</p>
          <div class="actions start">
            <Button onClick={() => void download()}>Download everything</Button>
            <Button look="danger" data-action="erase-me" onClick={() => void erase()}>Erase everything…</Button>
          </div>
        </section>
        <p class="small-print">tutee {me.value?.version} · base model {me.value?.base.name}</p>
      </div>
    </Dialog>
  );
}

function Consent() {
  const agreed = me.value?.consent.train ?? false;
  const id = useId();
  const flip = () => attempt(async () => {
    await setConsent(!agreed);
    toast(agreed ? "From now on nothing of yours enters training." : "Thank you. New versions may learn from your chats and feedback.");
  });
  return (
    <section class="setting">
      <div class="switch-row">
        <h3 id={id}>Learn from my chats</h3>
        <input type="checkbox" role="switch" class="switch" checked={agreed} aria-labelledby={id} aria-describedby={`${id}-what`}
          data-consent={String(agreed)} onChange={(event) => {
            event.currentTarget.checked = agreed; // it moves when the server has agreed
            void once("consent", flip);
          }} />
      </div>
      <p class="hint" id={`${id}-what`}>
        When this is on, answers that you rate, compare, correct or write, and the chat before them, may be used to train the next
        version on this machine. Personal data and secrets are blanked out first. Switching it off takes your feedback out of every
        later version. Temporary chats are never used.
      </p>
    </section>
  );
}

function Looks() {
  const themes: [Theme, string][] = [["system", "As the system"], ["light", "Light"], ["dark", "Dark"]];
  return (
    <section class="setting">
      <h3>Colours</h3>
      <div class="segments" role="group" aria-label="Colours">
        {themes.map(([name, label]) => (
          <button key={name} type="button" aria-pressed={theme.value === name} onClick={() => (theme.value = name)}>{label}</button>
        ))}
      </div>
    </section>
  );
}

function Answers() {
  const system = useId();
  return (
    <section class="setting">
      <h3>Answers</h3>
      <div class="field-row">
        <SamplingField name="temperature" label="Temperature" min={0} max={2} step={0.1} />
        <SamplingField name="top_p" label="Top-p" min={0.05} max={1} step={0.05} />
        <SamplingField name="max_tokens" label="Longest answer (tokens)" min={1} max={me.value?.base.context_length ?? 8192} step={1} />
      </div>
      <p class="hint">Empty fields take the server’s defaults.</p>
      <div class="field">
        <label for={system}>System prompt of new chats</label>
        <textarea id={system} rows={3} value={systemPrompt.value} onInput={(event) => (systemPrompt.value = event.currentTarget.value)} />
      </div>
    </section>
  );
}

function SamplingField(props: { name: keyof Sampling; label: string; min: number; max: number; step: number }) {
  const { name, label, ...range } = props;
  const id = useId();
  const onInput = (field: HTMLInputElement) => {
    const { [name]: _, ...others } = sampling.value;
    if (field.value === "") sampling.value = others;
    else if (field.validity.valid) sampling.value = { ...others, [name]: field.valueAsNumber };
  };
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input id={id} type="number" {...range} placeholder="default" defaultValue={sampling.value[name]?.toString() ?? ""}
        onInput={(event) => onInput(event.currentTarget)} />
    </div>
  );
}

function Person() {
  const current = me.value?.actor.handle ?? "";
  const [handle, setHandle] = useState(current);
  const id = useId();
  return (
    <section class="setting">
      <h3>Who is here</h3>
      <p class="hint">Each person of this machine has their own chats, consent and feedback. A new name makes a new person.</p>
      <form class="inline-form" onSubmit={(event) => {
        event.preventDefault();
        becomeActor(handle.trim());
      }}>
        <label class="visually-hidden" for={id}>Name</label>
        <input id={id} value={handle} maxLength={64} pattern="[A-Za-z0-9][A-Za-z0-9._\-]*" required
          onInput={(event) => setHandle(event.currentTarget.value)} />
        <Button type="submit" disabled={!handle.trim() || handle.trim() === current}>Switch</Button>
      </form>
    </section>
  );
}

async function erase(): Promise<void> {
  const sure = await ask({
    title: "Erase everything of yours?", action: "Erase everything", danger: true,
    body: "Your chats, feedback and files go, and no later version learns from you. Keys stop working, but for the owner's. There is no way back. "
      + "Versions that already learned from you keep their weights until the next one is trained and promoted; backups keep their copies.",
  });
  if (sure !== null) await once("erase", () => attempt(eraseMe));
}

async function download(): Promise<void> {
  const archive = await once("export", () => attempt(() => api.export()));
  if (!archive) return;
  const address = URL.createObjectURL(archive);
  const anchor = document.createElement("a");
  anchor.href = address;
  anchor.download = "tutee-export.zip";
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
