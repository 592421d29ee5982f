/** Mathematics as MathML, which the browser sets itself: no fonts, no styles. Loaded when a formula first appears. */
import katex from "katex";

/** MathML for TeX, without the TeX itself; a formula that KaTeX does not understand stays as it was written. */
export function mathml(tex: string, display: boolean): string {
  const made = katex.renderToString(tex, { output: "mathml", displayMode: display, throwOnError: false, trust: false, maxExpand: 200 });
  return made.replace(/<annotation [^]*?<\/annotation>/, "");
}
