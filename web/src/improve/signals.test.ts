import { expect, test } from "vitest";
import { meaningOf, nameOf, ranked } from "./signals";

test("a job with a reward shows what reinforcement is watched by, the reward first and the loss last", () => {
  const [shown, folded] = ranked(["loss", "grad_norm", "zero_variance_groups", "entropy", "kl", "reward", "clip_fraction", "length"]);
  expect(shown).toEqual(["reward", "kl", "entropy", "length", "clip_fraction", "zero_variance_groups"]);
  expect(folded).toEqual(["grad_norm", "loss"]);
});

test("another job shows its loss first", () => {
  expect(ranked(["grad_norm", "kl", "dpo_loss", "zebra"])).toEqual([["dpo_loss", "kl", "grad_norm", "zebra"], []]);
  expect(ranked([..."abcdefghi"])).toEqual([[..."abcdefg"], ["h", "i"]]);
});

test("names are words", () => {
  expect(nameOf("valid_dpo_loss")).toBe("Valid DPO loss");
  expect(meaningOf("kl")).toContain("nats");
  expect(meaningOf("valid_dpo_loss")).toBe("");
});
