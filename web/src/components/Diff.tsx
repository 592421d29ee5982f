/** A correction, shown against what it corrects. */
import { useMemo } from "preact/hooks";
import { diffWords } from "../diff";

export function Diff({ before, after }: { before: string; after: string }) {
  const pieces = useMemo(() => diffWords(before, after), [before, after]);
  return (
    <div class="diff" dir="auto" data-diff>
      {pieces.map((piece, index) =>
        piece.kind === "added" ? <ins key={index}>{piece.text}</ins>
        : piece.kind === "removed" ? <del key={index}>{piece.text}</del>
        : <span key={index}>{piece.text}</span>,
      )}
    </div>
  );
}
