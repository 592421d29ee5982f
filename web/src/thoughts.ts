/** What an answer thought before it spoke: text between `<think>` tags at its beginning, told apart as the server's API does. */

const OPEN = "<think>";
const CLOSE = "</think>";

export interface Said {
  /** Null where nothing was thought. */
  thoughts: string | null;
  words: string;
  /** Whether it is still thinking. */
  thinking: boolean;
}

/** Length of the longest end of `text` that begins `tag`. */
function overlap(text: string, tag: string): number {
  for (let size = Math.min(text.length, tag.length - 1); size > 0; size--) if (text.endsWith(tag.slice(0, size))) return size;
  return 0;
}

/**
 * Take an answer apart.
 * `growing`: more will come, so what may be the beginning of a tag is held back. `inside`: its model's answers begin in
 * the midst of thoughts, without an opening tag.
 */
export function apart(text: string, growing = false, inside = false): Said {
  const begun = text.trimStart();
  const opened = begun.startsWith(OPEN);
  if (!opened && growing && OPEN.startsWith(begun)) return { thoughts: null, words: "", thinking: false };
  if (!opened && !inside) return { thoughts: null, words: text, thinking: false };
  const rest = opened ? begun.slice(OPEN.length) : begun;
  const end = rest.indexOf(CLOSE);
  if (end >= 0) return { thoughts: rest.slice(0, end).trim() || null, words: rest.slice(end + CLOSE.length).trimStart(), thinking: false };
  const heard = growing ? rest.slice(0, rest.length - overlap(rest, CLOSE)) : rest;
  return { thoughts: heard.trim() || null, words: "", thinking: growing };
}
