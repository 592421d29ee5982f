import { expect, test } from "vitest";
import { apart } from "./thoughts";

test("thoughts and words are told apart", () => {
  expect(apart("<think>\nhm \n</think>\n\nhi\n")).toEqual({ thoughts: "hm", words: "hi\n", thinking: false });
  expect(apart("hello <think>no</think>")).toEqual({ thoughts: null, words: "hello <think>no</think>", thinking: false });
  expect(apart("<think>\n\n</think>\n\nhi")).toEqual({ thoughts: null, words: "hi", thinking: false });
  expect(apart("<think>cut off")).toEqual({ thoughts: "cut off", words: "", thinking: false });
});

test("an answer may begin inside its thoughts", () => {
  expect(apart("so.\n</think>\n\nhi", false, true)).toEqual({ thoughts: "so.", words: "hi", thinking: false });
  expect(apart("so", true, true)).toEqual({ thoughts: "so", words: "", thinking: true });
});

test("no part of a tag is ever shown while it grows", () => {
  const text = "<think>\nFirst < second.\n</think>\n\nDone.";
  for (let end = 0; end <= text.length; end++) {
    const said = apart(text.slice(0, end), true);
    const shown = `${said.thoughts ?? ""}|${said.words}`;
    expect(shown).not.toMatch(/<t|<\/|think>/);
    expect(said.words === "" || said.thoughts === "First < second.").toBe(true);
  }
});
