/** Asks for a key, where the server wants one. */
import { useState } from "preact/hooks";
import { unlock } from "../state/session";
import { Button } from "./Button";

export function Locked() {
  const [key, setKey] = useState("");
  return (
    <main class="starting">
      <h1>This tutee wants a key</h1>
      <form class="inline-form" onSubmit={(event) => {
        event.preventDefault();
        void unlock(key.trim());
      }}>
        <label class="visually-hidden" for="key">Key</label>
        <input id="key" type="password" autocomplete="off" value={key} onInput={(event) => setKey(event.currentTarget.value)} />
        <Button type="submit" look="primary" disabled={!key.trim()}>Open</Button>
      </form>
      <p class="hint">The key is kept in this tab only.</p>
    </main>
  );
}
