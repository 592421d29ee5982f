/** Asks for a key, where the server wants one. */
import { useState } from "preact/hooks";
import { locked, startError, unlock } from "../state/session";
import { Button } from "./Button";
import { Icon } from "./Icon";

export function Locked() {
  const [key, setKey] = useState("");
  const [refused, setRefused] = useState("");
  const open = async () => {
    setRefused("");
    await unlock(key.trim());
    setRefused(startError.value || (locked.value ? "The server does not know this key." : ""));
  };
  return (
    <main class="starting">
      <h1>This tutee wants a key</h1>
      <form class="inline-form" onSubmit={(event) => {
        event.preventDefault();
        void open();
      }}>
        <label class="visually-hidden" for="key">Key</label>
        <input id="key" type="password" autocomplete="off" value={key} onInput={(event) => setKey(event.currentTarget.value)} />
        <Button type="submit" look="primary" disabled={!key.trim()}>Open</Button>
      </form>
      {refused && <p class="ending" role="alert" data-refused><Icon name="warning" /><span>{refused}</span></p>}
      <p class="hint">The key is kept in this tab only.</p>
    </main>
  );
}
