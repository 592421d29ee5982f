/** Small strings that outlive a reload, in the browser's own storage; a browser that forbids it forgets, nothing breaks. */

export function recall(name: string): string {
  try {
    return localStorage.getItem(`tutee.${name}`) ?? "";
  } catch {
    return "";
  }
}

/** Keep `value` under `name`; an empty one is removed. */
export function keep(name: string, value: string): void {
  try {
    if (value) localStorage.setItem(`tutee.${name}`, value);
    else localStorage.removeItem(`tutee.${name}`);
  } catch {
    // Storage is full or forbidden: the page works without it.
  }
}
