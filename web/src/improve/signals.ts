/** What the numbers of a training job are called, what they mean, and which are looked at first. Pure; knows no picture. */
import { words } from "../format";

/** Name of a signal → [what it is called, what it tells]. */
const MEANINGS: Record<string, [string, string]> = {
  reward: ["Reward", "What its answers earn, on average. This is what it learns to raise."],
  valid_reward: ["Reward, held out", "The same on questions that it does not learn from."],
  kl: ["KL", "How far its answers went from where it began, in nats an answer. A jump is a warning."],
  entropy: ["Entropy", "How open its choices are. Near zero it says the same thing every time, and learns no more."],
  length: ["Length", "Tokens an answer. Rising with the reward it may be padding."],
  clip_fraction: ["Clip fraction", "Share of tokens whose update was cut because they had changed enough."],
  zero_variance_groups: ["Zero-variance groups", "Share of questions whose answers all earned the same: nothing is learned from them."],
  sampler_gap: ["Sampler gap", "How far sampler and trainer disagree about the same tokens. Must stay near zero."],
  grad_norm: ["Gradient norm", "How large the steps want to be."],
  finished: ["Finished", "Share of answers that ended by themselves."],
};

/** A job with a reward: its loss is about 0 by construction and says nothing, so it is not among these. */
const REWARDED = ["reward", "kl", "entropy", "length", "clip_fraction", "zero_variance_groups", "valid_reward"];
const FIRST = [/^dpo_loss$/, /^loss$/, /^kl$|teacher_kl/, /accuracy/, /margin/, /entropy/, /loss/, /sampler_gap/, /grad_norm/];
const SHOWN = 7;

export const nameOf = (signal: string): string => MEANINGS[signal]?.[0] ?? words(signal);
export const meaningOf = (signal: string): string => MEANINGS[signal]?.[1] ?? "";

/** [what is drawn at once, what is folded away], each in the order in which it is looked at. */
export function ranked(signals: string[]): [string[], string[]] {
  const rewarded = signals.includes("reward");
  const place = (signal: string): number => {
    const found = rewarded ? REWARDED.indexOf(signal) : FIRST.findIndex((pattern) => pattern.test(signal));
    return found < 0 ? Infinity : found;
  };
  const ordered = [...signals].sort((a, b) => (place(a) === place(b) ? a.localeCompare(b) : place(a) - place(b)));
  const count = rewarded ? ordered.filter((signal) => place(signal) < Infinity).length : SHOWN;
  return [ordered.slice(0, count), ordered.slice(count)];
}
