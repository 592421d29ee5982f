/** Small strings that outlive a reload, in the browser's own storage; where it is full or forbidden they last as long as the page. */

/** What the browser did not take. */
const memory = new Map<string, string>();

/** The `localStorage` that outlives the tab, or the `sessionStorage` that does not. Asking for it can throw. */
type Area = () => Storage;
const lasting: Area = () => localStorage;
export const passing: Area = () => sessionStorage;

export function recall(name: string, area: Area = lasting): string {
  const held = memory.get(name);
  if (held !== undefined) return held;
  try {
    return area().getItem(`tutee.${name}`) ?? "";
  } catch {
    return "";
  }
}

/** Keep `value` under `name`; an empty one is removed. */
export function keep(name: string, value: string, area: Area = lasting): void {
  try {
    if (value) area().setItem(`tutee.${name}`, value);
    else area().removeItem(`tutee.${name}`);
    memory.delete(name);
  } catch {
    memory.set(name, value);
  }
}
