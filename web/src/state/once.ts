/** Order among wishes: the same one is not done twice at a time (a double click, a key held down), and an old answer does not follow a newer one. */
const underWay = new Set<string>();

/** Do `work` unless the same `wish` is under way; then undefined. */
export async function once<T>(wish: string, work: () => Promise<T>): Promise<T | undefined> {
  if (underWay.has(wish)) return undefined;
  underWay.add(wish);
  try {
    return await work();
  } finally {
    underWay.delete(wish);
  }
}

/** A question about something that changes: an answer that comes when a later question was already asked is old, and undefined. */
export function newest<T>(ask: () => Promise<T>): () => Promise<T | undefined> {
  let asked = 0;
  return async () => {
    const mine = ++asked;
    const told = await ask();
    return mine === asked ? told : undefined;
  };
}
