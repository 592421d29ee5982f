/** One wish at a time: what is asked for again while it is still being done (a double click, a key held down) is not done twice. */
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
