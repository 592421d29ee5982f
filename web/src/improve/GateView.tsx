/** The verdict of the gate, and each check with its reason. */
import { Chip } from "../components/Badge";
import { Icon, type IconName } from "../components/Icon";
import { ago, words } from "../format";
import type { Check, Gate, Verdict } from "../types";

/** A check that does not decide warns where another one fails. */
type CheckLook = Verdict | "warn";
const lookOf = (check: Check): CheckLook => (check.verdict === "fail" && !check.blocking ? "warn" : check.verdict);

const LOOKS: Record<CheckLook, { icon: IconName; says: string }> = {
  pass: { icon: "check", says: "passed" },
  fail: { icon: "close", says: "failed" },
  warn: { icon: "warning", says: "a warning" },
  insufficient: { icon: "question", says: "not enough to tell" },
};
const SUMMARY: Record<Verdict, string> = {
  pass: "This version is better, and nothing got worse.",
  fail: "This version should not go live.",
  insufficient: "There is not enough evidence yet.",
};

export function GateView({ gate }: { gate: Gate }) {
  return (
    <div class={`gate ${gate.verdict}`} data-verdict={gate.verdict}>
      <div class="gate-head">
        <Chip kind={gate.verdict}>{gate.verdict}</Chip>
        <strong>{SUMMARY[gate.verdict]}</strong>
        <span class="spread" />
        <time class="quiet">{ago(gate.created_at)}</time>
      </div>
      <ul class="checks">
        {gate.checks.map((check) => (
          <li key={check.name} class={lookOf(check)} data-check={check.name} data-verdict={check.verdict}>
            <Icon name={LOOKS[lookOf(check)].icon} />
            <span>
              <strong>{words(check.name)}</strong> <span class="visually-hidden">{LOOKS[lookOf(check)].says}: </span>
              {check.reason}
            </span>
          </li>
        ))}
      </ul>
    </div>
  );
}
