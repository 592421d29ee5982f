/** Dialogs for feedback with more to say: why a thumb, why a flag. */
import { useId, useState } from "preact/hooks";
import { explainThumb, flag, teaching, thumb } from "../state/teaching";
import { tree } from "../state/thread";
import type { Message } from "../types";
import { Button } from "./Button";
import { Dialog } from "./Dialog";

const REASONS = {
  good: [["correct", "Correct"], ["helpful", "Helpful"], ["clear", "Clear"], ["right_length", "Right length"], ["good_style", "Good style"]],
  bad: [["wrong", "Wrong"], ["not_followed", "Not what I asked"], ["too_long", "Too long"], ["too_short", "Too short"],
    ["unclear", "Unclear"], ["bad_style", "Bad style"]],
} as const;

const CATEGORIES = [["harmful", "Harmful or dangerous"], ["private", "Private information"], ["illegal", "Illegal"], ["other", "Something else"]] as const;

export function TeachDialogs() {
  const task = teaching.value;
  if (task?.kind === "thumb") return <ThumbDialog key={task.message.id} note={task.note} message={tree.value.get(task.message.id) ?? task.message} />;
  if (task?.kind === "flag") return <FlagDialog message={task.message} />;
  return null;
}

const close = () => (teaching.value = null);

function ThumbDialog({ message, note }: { message: Message; note: string }) {
  const given = message.feedback?.thumb;
  const [reasons, setReasons] = useState<string[]>(given?.reasons ?? []);
  const [comment, setComment] = useState(given?.comment ?? "");
  const field = useId();
  const value = given?.value ?? 1;
  const flip = (reason: string) =>
    setReasons(reasons.includes(reason) ? reasons.filter((one) => one !== reason) : [...reasons, reason]);
  return (
    <Dialog title={value > 0 ? "What was good?" : "What was wrong?"} name="thumb" onClose={close}>
      <form class="stack" onSubmit={(event) => {
        event.preventDefault();
        void explainThumb(message, value, reasons, comment);
      }}>
        <p class="hint" role="status">{note} Reasons help people who look into it.</p>
        <div class="reasons" role="group" aria-label="Reasons">
          {(value > 0 ? REASONS.good : REASONS.bad).map(([reason, label]) => (
            <button key={reason} type="button" class="toggle" aria-pressed={reasons.includes(reason)} data-reason={reason}
              onClick={() => flip(reason)}>
              {label}
            </button>
          ))}
        </div>
        <div class="field">
          <label for={field}>Comment (optional)</label>
          <textarea id={field} rows={3} value={comment} onInput={(event) => setComment(event.currentTarget.value)} />
        </div>
        <div class="actions">
          <Button look="quiet" data-action="undo-thumb" onClick={() => void thumb(message, 0)}>Undo</Button>
          <span class="spread" />
          <Button look="quiet" onClick={close}>Not now</Button>
          <Button look="primary" type="submit" data-action="explain" disabled={!reasons.length && !comment.trim()}>Save</Button>
        </div>
      </form>
    </Dialog>
  );
}

function FlagDialog({ message }: { message: Message }) {
  const [category, setCategory] = useState("harmful");
  const [comment, setComment] = useState("");
  const field = useId();
  return (
    <Dialog title="Flag this answer" name="flag" onClose={close}>
      <form class="stack" onSubmit={(event) => {
        event.preventDefault();
        void flag(message, category, comment);
      }}>
        <fieldset class="options">
          <legend>What is the matter?</legend>
          {CATEGORIES.map(([name, label]) => (
            <label key={name}>
              <input type="radio" name="category" checked={category === name} onChange={() => setCategory(name)} /> {label}
            </label>
          ))}
        </fieldset>
        <div class="field">
          <label for={field}>Comment (optional)</label>
          <textarea id={field} rows={3} value={comment} onInput={(event) => setComment(event.currentTarget.value)} />
        </div>
        <div class="actions">
          <Button look="quiet" onClick={close}>Cancel</Button>
          <Button look="primary" type="submit">Flag</Button>
        </div>
      </form>
    </Dialog>
  );
}
