/** Copies a whole text, and shows for a moment that it did. */
import { useState } from "preact/hooks";
import { copyText } from "../clipboard";
import { complain } from "../state/toast";
import { IconButton } from "./Button";

export function CopyButton({ text }: { text: string }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await copyText(text);
    setDone(true);
    setTimeout(() => setDone(false), 1600);
  };
  return <IconButton icon={done ? "check" : "copy"} label={done ? "Copied" : "Copy"} data-action="copy" onClick={() => void copy().catch(complain)} />;
}
