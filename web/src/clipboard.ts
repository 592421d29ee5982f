/** Puts a text into the clipboard, also where the browser has no clipboard for pages that came over plain HTTP. */

export async function copyText(text: string): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  const focused = document.activeElement as HTMLElement | null;
  // Inside an open dialog everything else is inert.
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  if (!done) throw new Error("This browser does not let the page copy. Select the text instead.");
}
