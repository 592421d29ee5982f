import { expect, test } from "vitest";
import { newest, once } from "./once";

function later<T>(): { promise: Promise<T>; give: (value: T) => void } {
  let give: (value: T) => void = () => undefined;
  const promise = new Promise<T>((resolve) => (give = resolve));
  return { promise, give };
}

test("the same wish is done once until it is done, another one beside it", async () => {
  const first = later<string>();
  const doing = once("wish", () => first.promise);
  expect(await once("wish", async () => "again")).toBeUndefined();
  expect(await once("another", async () => "beside")).toBe("beside");
  first.give("done");
  expect(await doing).toBe("done");
  expect(await once("wish", async () => "anew")).toBe("anew");
});

test("a wish that failed can be wished again", async () => {
  await expect(once("wish", () => Promise.reject(new Error("no")))).rejects.toThrow("no");
  expect(await once("wish", async () => "yes")).toBe("yes");
});

test("a late answer to an early question is dropped", async () => {
  const answers = [later<string>(), later<string>()];
  let asked = 0;
  const ask = newest(() => answers[asked++]!.promise);
  const [early, late] = [ask(), ask()];
  answers[1]!.give("new");
  answers[0]!.give("old");
  expect(await late).toBe("new");
  expect(await early).toBeUndefined();
});
