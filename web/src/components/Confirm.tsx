/** "Are you sure?", with a reason where one is wanted: one question at a time, answered through a promise. */
import { signal } from "@preact/signals";
import { useId, useState } from "preact/hooks";
import { Button } from "./Button";
import { Dialog } from "./Dialog";

interface Question {
  title: string;
  body: string;
  action: string;
  danger?: boolean;
  /** Whether the answer carries a reason. */
  reason?: "optional" | "required";
}

const question = signal<(Question & { answer: (reason: string | null) => void }) | null>(null);

/** Ask; resolves with the reason (maybe empty) or with null when the reader backs out. */
export function ask(asked: Question): Promise<string | null> {
  return new Promise((resolve) => {
    question.value = {
      ...asked,
      answer: (reason) => {
        question.value = null;
        resolve(reason);
      },
    };
  });
}

export function Confirm() {
  return question.value && <ConfirmDialog key={question.value.title} asked={question.value} />;
}

function ConfirmDialog({ asked }: { asked: NonNullable<typeof question.value> }) {
  const [reason, setReason] = useState("");
  const field = useId();
  return (
    <Dialog title={asked.title} name="confirm" onClose={() => asked.answer(null)}>
      <form
        class="stack"
        onSubmit={(event) => {
          event.preventDefault();
          asked.answer(reason.trim());
        }}
      >
        <p>{asked.body}</p>
        {asked.reason && (
          <div class="field">
            <label for={field}>Reason{asked.reason === "optional" ? " (optional)" : ""}</label>
            <textarea id={field} rows={3} value={reason} required={asked.reason === "required"}
              onInput={(event) => setReason(event.currentTarget.value)} />
          </div>
        )}
        <div class="actions">
          <Button onClick={() => asked.answer(null)}>Cancel</Button>
          <Button type="submit" look={asked.danger ? "danger" : "primary"} data-action="confirm"
            disabled={asked.reason === "required" && !reason.trim()}>
            {asked.action}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
