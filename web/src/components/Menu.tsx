/** A button with a small menu: arrow keys walk, Escape closes, a click elsewhere closes. */
import { useId, useRef, useState } from "preact/hooks";
import { Icon, type IconName } from "./Icon";

export interface MenuItem {
  label: string;
  icon: IconName;
  run: () => void;
  danger?: boolean;
  name?: string;
}

const GAP = 6;

export function Menu({ label, items, name }: { label: string; items: MenuItem[]; name?: string }) {
  const id = useId();
  const button = useRef<HTMLButtonElement>(null);
  const menu = useRef<HTMLDivElement>(null);
  // A long list has a menu in each row: its items exist only while it is open.
  const [open, setOpen] = useState(false);

  const place = (event: { newState: string }) => {
    // Only now: the focus goes back to the button from an item that is still there.
    if (event.newState !== "open") return setOpen(false);
    const from = button.current!.getBoundingClientRect();
    const box = menu.current!.getBoundingClientRect();
    const below = from.bottom + GAP + box.height < innerHeight;
    menu.current!.style.top = `${below ? from.bottom + GAP : from.top - GAP - box.height}px`;
    menu.current!.style.left = `${Math.max(GAP, Math.min(from.left, innerWidth - box.width - GAP))}px`;
    menu.current!.querySelector("button")?.focus();
  };
  const walk = (event: KeyboardEvent) => {
    const all = [...menu.current!.querySelectorAll("button")];
    const at = all.indexOf(document.activeElement as HTMLButtonElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    all.at(to % all.length)?.focus();
  };
  return (
    <>
      <button ref={button} type="button" class="icon-button" aria-label={label} title={label} aria-haspopup="menu"
        data-menu={name} popovertarget={id}>
        <Icon name="more" />
      </button>
      <div ref={menu} id={id} popover="auto" role="menu" class="menu" aria-label={label}
        onBeforeToggle={(event) => event.newState === "open" && setOpen(true)} onToggle={place} onKeyDown={walk}>
        {open && items.map((item) => (
          <button key={item.label} type="button" role="menuitem" class={item.danger ? "danger" : ""} data-item={item.name}
            onClick={() => {
              menu.current!.hidePopover();
              item.run();
            }}>
            <Icon name={item.icon} />
            <span>{item.label}</span>
          </button>
        ))}
      </div>
    </>
  );
}
