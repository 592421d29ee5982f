/** What a rendered block gains after it is safe: code headers with a copy button, colours, typeset mathematics, table frames. */
import { copyText } from "../clipboard";
import { complain } from "../state/toast";
import { sanitise } from "./sanitise";

/** Code blocks get a header at once; colours come when the highlighter has loaded and the block is settled. */
export function decorate(block: DocumentFragment | HTMLElement, settled: boolean): void {
  for (const code of block.querySelectorAll<HTMLElement>("pre > code")) frameCode(code, settled);
  for (const table of block.querySelectorAll("table")) {
    const frame = element("div", "table-frame");
    frame.tabIndex = 0;
    frame.setAttribute("role", "region");
    frame.setAttribute("aria-label", "Table");
    table.replaceWith(frame);
    frame.append(table);
  }
  if (settled) for (const code of block.querySelectorAll<HTMLElement>("code[class^='language-math']")) typeset(code);
}

function element(tag: string, className: string, text = ""): HTMLElement {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function frameCode(code: HTMLElement, settled: boolean): void {
  const language = /language-([\w+#-]+)/.exec(code.className)?.[1] ?? "";
  const frame = element("div", "code-frame");
  const header = element("div", "code-header");
  const copy = element("button", "code-copy", "Copy") as HTMLButtonElement;
  copy.type = "button";
  copy.addEventListener("click", () => void copyCode(copy, code.textContent ?? "").catch(complain));
  header.append(element("span", "code-language", language || "code"), copy);
  const pre = code.parentElement!;
  pre.tabIndex = 0;
  pre.replaceWith(frame);
  frame.append(header, pre);
  if (settled && language) colour(code, language);
}

async function copyCode(button: HTMLButtonElement, text: string): Promise<void> {
  await copyText(text.replace(/\n$/, ""));
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1600);
}

function colour(code: HTMLElement, language: string): void {
  void import("./highlight").then(({ highlight }) => {
    const html = highlight(code.textContent ?? "", language);
    if (html) code.replaceChildren(sanitise(html));
  });
}

function typeset(code: HTMLElement): void {
  const display = code.classList.contains("language-math-block");
  void import("./katex").then(({ mathml }) => {
    const formula = sanitise(mathml(code.textContent ?? "", display));
    if (!display) return code.replaceWith(formula);
    const frame = element("span", "math-frame");
    frame.append(formula);
    code.replaceWith(frame);
    if (frame.scrollWidth > frame.clientWidth) frame.tabIndex = 0; // keys can scroll what is wider than the page
  });
}
