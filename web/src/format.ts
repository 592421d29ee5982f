/** Numbers, times and names as people read them. */

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const dateTime = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

/** "5 minutes ago" for unix seconds. */
export function ago(seconds: number, now = Date.now() / 1000): string {
  const past = seconds - now;
  const size = Math.abs(past);
  if (size < 45) return "just now";
  if (size < 3600) return relative.format(Math.round(past / 60), "minute");
  if (size < 86400) return relative.format(Math.round(past / 3600), "hour");
  return relative.format(Math.round(past / 86400), "day");
}

export const when = (seconds: number): string => dateTime.format(new Date(seconds * 1000));

/** "1 min 20 s" for a length of time in seconds. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}

/** Three significant digits, trailing zeros dropped. */
export function number(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1000 || Math.abs(value) < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

export const plural = (count: number, one: string, many = `${one}s`): string => `${count} ${count === 1 ? one : many}`;

const ACRONYMS = /\b(kl|sft|dpo|lr|eta)\b/gi;

/** "reward_margin" → "Reward margin", "kl" → "KL". */
export function words(name: string): string {
  const text = name.replaceAll(/[_/.-]+/g, " ").trim().replaceAll(ACRONYMS, (found) => found.toUpperCase());
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export const shortSha = (sha: string): string => sha.slice(0, 10);
