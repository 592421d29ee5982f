import { expect, test } from "vitest";
import { BlockSplitter, toHtml } from "./blocks";

const TEXT = `# Title

A paragraph of words
on two lines.

- one
- two

  still two

| a | b |
| - | - |
| 1 | 2 |

\`\`\`python
print("x")

print("y")
\`\`\`

$$
x^2
$$

The end.`;

test("text that grows letter by letter ends in the same blocks as the whole text", () => {
  const growing = new BlockSplitter();
  for (let length = 1; length < TEXT.length; length++) growing.split(TEXT.slice(0, length));
  expect(growing.split(TEXT)).toEqual(new BlockSplitter().split(TEXT, true));
});

test("settled blocks keep their text while later ones grow", () => {
  const splitter = new BlockSplitter();
  const early = splitter.split("one\n\ntwo\n\nthree\n\nfour");
  expect(splitter.split("one\n\ntwo\n\nthree\n\nfour and more").slice(0, 3)).toEqual(early.slice(0, 3));
});

test("another text starts anew", () => {
  const splitter = new BlockSplitter();
  splitter.split("one\n\ntwo\n\nthree\n\nfour");
  expect(splitter.split("other").map((block) => block.trim())).toEqual(["other"]);
});

test("prices are no mathematics, formulas are", () => {
  expect(toHtml("It costs $5 or $6.")).not.toContain("language-math");
  expect(toHtml("So $a_1 < b$ holds.")).toContain('<code class="language-math-inline">a_1 &lt; b</code>');
  expect(toHtml("\\[x\\]")).toContain("language-math-block");
});
