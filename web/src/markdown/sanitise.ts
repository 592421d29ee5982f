/**
 * Markdown's HTML made safe: a strict allow-list, so that an answer can neither run, nor fetch, nor imitate the page.
 * No images, media, forms, styles, ids or names: a picture address is enough to carry a conversation away.
 */
import DOMPurify from "dompurify";

const TAGS = [
  "a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "ins", "kbd", "li",
  "mark", "ol", "p", "pre", "s", "span", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const MATH = [
  "math", "semantics", "mrow", "mi", "mo", "mn", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup",
  "msubsup", "munder", "mover", "munderover", "mtable", "mtr", "mtd", "mpadded", "mphantom", "menclose",
];
/** Attributes that are no addresses: their values need not look like one. */
const PLAIN = [
  "title", "align", "start", "colspan", "rowspan", "class",
  "display", "xmlns", "stretchy", "fence", "separator", "accent", "mathvariant", "columnalign", "linethickness", "width",
];

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A") {
    node.setAttribute("rel", "noopener noreferrer nofollow");
    node.setAttribute("target", "_blank");
  }
  // Only classes that we give out ourselves: an answer cannot dress up as a part of the page.
  const kept = (node.getAttribute("class") ?? "").split(/\s+/).filter((name) => /^(language-|hljs|katex)/.test(name));
  if (kept.length) node.setAttribute("class", kept.join(" "));
  else node.removeAttribute("class");
});

/** `html` as nodes that are safe to put into the page. */
export function sanitise(html: string): DocumentFragment {
  return DOMPurify.sanitize(html, {
    ALLOWED_TAGS: [...TAGS, ...MATH],
    ALLOWED_ATTR: ["href", ...PLAIN],
    ADD_URI_SAFE_ATTR: PLAIN,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
    RETURN_DOM_FRAGMENT: true,
  });
}
