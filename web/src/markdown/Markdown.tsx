/** Markdown on the page, block by block: while an answer grows, only its last blocks are made anew. */
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { BlockSplitter, toHtml } from "./blocks";
import { decorate } from "./decorate";
import { sanitise } from "./sanitise";

function Block({ source, settled }: { source: string; settled: boolean }) {
  const place = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const safe = sanitise(toHtml(source));
    decorate(safe, settled);
    place.current!.replaceChildren(safe);
  }, [source, settled]);
  return <div class="block" dir="auto" ref={place} />;
}

/** `growing` text has more to come: its last block is not coloured or typeset yet. */
export function Markdown({ text, growing = false }: { text: string; growing?: boolean }) {
  const splitter = useMemo(() => new BlockSplitter(), []);
  const blocks = useMemo(() => splitter.split(text, !growing), [text, growing]);
  return (
    <div class="prose">
      {blocks.map((source, index) => (
        <Block key={index} source={source} settled={!growing || index < blocks.length - 1} />
      ))}
    </div>
  );
}
