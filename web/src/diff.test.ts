import { expect, test } from "vitest";
import { diffWords } from "./diff";

const spell = (kind: string, before: string, after: string) =>
  diffWords(before, after).filter((piece) => piece.kind === "same" || piece.kind === kind).map((piece) => piece.text).join("");

test.each([
  ["", ""], ["one", ""], ["", "one two"], ["same words", "same words"], ["the old cat sat", "the cat sat down"], ["a\n\nb  c", "a\nb c"],
  ["naïve Straße 漢字", "naive Straße 漢字!"], ["x ".repeat(300), "y ".repeat(300)],
])("%j to %j: the pieces spell both texts", (before, after) => {
  expect(spell("removed", before, after)).toBe(before);
  expect(spell("added", before, after)).toBe(after);
});

test("only the changed word is marked", () => {
  expect(diffWords("the old cat sat", "the big cat sat")).toEqual([
    { kind: "same", text: "the " }, { kind: "removed", text: "old" }, { kind: "added", text: "big" }, { kind: "same", text: " cat sat" },
  ]);
});
