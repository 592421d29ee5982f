/** What changed between two texts, word by word: a longest common subsequence over words and the spaces between. */

export interface Piece {
  kind: "same" | "added" | "removed";
  text: string;
}

const LONGEST = 4000;

/** Pieces that, without the added ones, spell `before`, and without the removed ones, `after`. */
export function diffWords(before: string, after: string): Piece[] {
  const a = before.match(/\s+|[\p{L}\p{N}_'’]+|[^\s\p{L}\p{N}_]/gu) ?? [];
  const b = after.match(/\s+|[\p{L}\p{N}_'’]+|[^\s\p{L}\p{N}_]/gu) ?? [];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const middle = middlePieces(a.slice(start, a.length - end), b.slice(start, b.length - end));
  const head: Piece = { kind: "same", text: a.slice(0, start).join("") };
  const tail: Piece = { kind: "same", text: end ? a.slice(-end).join("") : "" };
  return join([head, ...middle, tail]);
}

function middlePieces(a: string[], b: string[]): Piece[] {
  if (a.length > LONGEST || b.length > LONGEST) {
    return [{ kind: "removed", text: a.join("") }, { kind: "added", text: b.join("") }];
  }
  const width = b.length + 1;
  // common[i * width + j]: length of the longest common subsequence of a[i:] and b[j:]
  const common = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i * width + j] =
        a[i] === b[j]
          ? common[(i + 1) * width + j + 1]! + 1
          : Math.max(common[(i + 1) * width + j]!, common[i * width + j + 1]!);
    }
  }
  const pieces: Piece[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      pieces.push({ kind: "same", text: a[i++]! });
      j++;
    } else if (j === b.length || (i < a.length && common[(i + 1) * width + j]! >= common[i * width + j + 1]!)) {
      pieces.push({ kind: "removed", text: a[i++]! });
    } else {
      pieces.push({ kind: "added", text: b[j++]! });
    }
  }
  return pieces;
}

function join(pieces: Piece[]): Piece[] {
  const joined: Piece[] = [];
  for (const piece of pieces) {
    const last = joined.at(-1);
    if (last?.kind === piece.kind) last.text += piece.text;
    else if (piece.text) joined.push({ ...piece });
  }
  return joined;
}
