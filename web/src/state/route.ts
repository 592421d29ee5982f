/** Where in the page one is: read from the address after the #, so that links, back and reload work. */
import { computed, signal } from "@preact/signals";

export type Route =
  | { page: "chat"; id: string | null }
  | { page: "improve"; id: string | null }
  | { page: "keys" }
  | { page: "versions"; id: string | null }
  | { page: "feedback"; id: string | null };

const hash = signal(location.hash);
addEventListener("hashchange", () => (hash.value = location.hash));

/** An address that somebody typed need not be well-formed. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function parse(address: string): Route {
  const [page = "", id = ""] = address.replace(/^#?\/?/, "").split("/").map(decoded);
  if (page === "c" && id) return { page: "chat", id };
  if (page === "keys") return { page };
  if (page === "improve" || page === "versions" || page === "feedback") return { page, id: id || null };
  return { page: "chat", id: null };
}

export const route = computed(() => parse(hash.value));

export const link = {
  newChat: "#/",
  chat: (id: string) => `#/c/${encodeURIComponent(id)}`,
  improve: "#/improve",
  job: (id: string) => `#/improve/${encodeURIComponent(id)}`,
  keys: "#/keys",
  versions: "#/versions",
  version: (id: string) => `#/versions/${encodeURIComponent(id)}`,
  feedback: "#/feedback",
  feedbackItem: (id: string) => `#/feedback/${encodeURIComponent(id)}`,
};

export function go(address: string, replace = false): void {
  if (replace) {
    history.replaceState(null, "", address);
    hash.value = address;
  } else {
    location.hash = address;
  }
}
