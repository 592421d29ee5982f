/** Buttons: one with words, and one that is only an icon and therefore carries its name. */
import type { ComponentChildren } from "preact";
import { Icon, type IconName } from "./Icon";

interface ButtonProps {
  onClick?: () => void;
  look?: "plain" | "primary" | "danger" | "quiet";
  icon?: IconName;
  disabled?: boolean;
  type?: "button" | "submit";
  pressed?: boolean;
  children: ComponentChildren;
  [data: `data-${string}`]: string;
}

export function Button({ look = "plain", icon, type = "button", pressed, children, ...rest }: ButtonProps) {
  return (
    <button type={type} class={`button ${look}`} aria-pressed={pressed} {...rest}>
      {icon && <Icon name={icon} />}
      <span>{children}</span>
    </button>
  );
}

interface IconButtonProps {
  icon: IconName;
  label: string;
  onClick?: (event: MouseEvent) => void;
  pressed?: boolean;
  disabled?: boolean;
  class?: string;
  [data: `data-${string}`]: string;
}

export function IconButton({ icon, label, pressed, class: extra = "", ...rest }: IconButtonProps) {
  return (
    <button type="button" class={`icon-button ${extra}`} aria-label={label} title={label} aria-pressed={pressed} {...rest}>
      <Icon name={icon} />
    </button>
  );
}
