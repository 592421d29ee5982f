/** Said for as long as the server does not answer something that is being followed. */
import { Icon } from "./Icon";

export function Away() {
  return (
    <p class="banner" role="alert" data-away>
      <Icon name="warning" /> The server is away. Trying again…
    </p>
  );
}
