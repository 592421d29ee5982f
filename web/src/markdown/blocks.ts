/** Cuts markdown into top-level blocks as it arrives. Only the end of a growing text is read again: older blocks are settled. */
import { type MarkedExtension, Marked } from "marked";

/** `$…$`, `$$…$$`, `\(…\)` and `\[…\]` become `<code class="language-math…">`, which is typeset once KaTeX is there. */
const math: MarkedExtension = {
  extensions: [
    {
      name: "mathBlock",
      level: "block",
      start: (text) => text.match(/\$\$|\\\[/)?.index,
      tokenizer(text) {
        const found = /^(?:\$\$([^$]+?)\$\$|\\\[([^]+?)\\\])(?:\n|$)/.exec(text);
        return found ? { type: "mathBlock", raw: found[0], text: (found[1] ?? found[2] ?? "").trim() } : undefined;
      },
      renderer: (token) => `<p><code class="language-math-block">${escape(String(token.text))}</code></p>`,
    },
    {
      name: "mathInline",
      level: "inline",
      start: (text) => text.match(/\$|\\\(/)?.index,
      tokenizer(text) {
        const found = /^(?:\$\$([^$\n]+?)\$\$|\$(?![\s\d])([^$\n]*[^\s$\\])\$(?!\d)|\\\(([^\n]+?)\\\))/.exec(text);
        return found ? { type: "mathInline", raw: found[0], text: found[1] ?? found[2] ?? found[3] ?? "" } : undefined;
      },
      renderer: (token) => `<code class="language-math-inline">${escape(String(token.text))}</code>`,
    },
  ],
};

function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

const marked = new Marked({ gfm: true, breaks: false, async: false }, math);

/** HTML of one block; not yet safe. */
export const toHtml = (block: string): string => marked.parse(block) as string;

/** How many blocks at the end of a growing text may still change: a list or a table can swallow what follows it. */
const UNSETTLED = 2;

export class BlockSplitter {
  private settled: string[] = [];
  private settledText = "";
  private text = "";
  private whole = false;

  /** The blocks of `text`; cheap when it continues the text of the last call. `whole` cuts anew, for the finished text. */
  split(text: string, whole = false): string[] {
    if (!text.startsWith(this.settledText) || (whole && !this.whole)) {
      this.settled = [];
      this.settledText = "";
    }
    this.text = text;
    this.whole = whole;
    const blocks = marked.lexer(this.text.slice(this.settledText.length)).map((token) => token.raw);
    const firm = whole ? 0 : Math.max(0, blocks.length - UNSETTLED);
    const shown = [...this.settled, ...blocks].filter((block) => block.trim());
    this.settled = [...this.settled, ...blocks.slice(0, firm)];
    this.settledText = this.settled.join("");
    // The lexer may normalise line ends; if the raws do not spell the text, start from scratch next time.
    if (!text.startsWith(this.settledText)) {
      this.settled = [];
      this.settledText = "";
    }
    return shown;
  }
}
