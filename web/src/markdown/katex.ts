/** Mathematics as MathML, which the browser sets itself: no fonts, no styles. Loaded when a formula first appears. */
import katex from "katex";

/** MathML for TeX; a formula that KaTeX does not understand stays as it was written. */
export function mathml(tex: string, display: boolean): string {
  return katex.renderToString(tex, { output: "mathml", displayMode: display, throwOnError: false, trust: false, maxExpand: 200 });
}
