/** Toasts, and the polite live region that says each reply once. */
import { useLayoutEffect, useRef } from "preact/hooks";
import { announcement, dismiss, toasts } from "../state/toast";
import { IconButton } from "./Button";

export function Announcer() {
  const place = useRef<HTMLDivElement>(null);
  // What entered the browser's top layer last lies above: a notice is read over an open dialog too.
  useLayoutEffect(() => {
    place.current!.hidePopover();
    if (toasts.value.length) place.current!.showPopover();
  }, [toasts.value]);
  return (
    <>
      <div class="visually-hidden" role="status" aria-live="polite" aria-atomic="true" data-live-region>
        {announcement.value}
      </div>
      <div ref={place} class="toasts" popover="manual" role="log" aria-live="polite" aria-label="Notices">
        {toasts.value.map((toast) => (
          <div key={toast.id} class={`toast ${toast.kind}`} data-toast={toast.kind}>
            <span>{toast.text}</span>
            {toast.action && (
              <button type="button" class="link" onClick={() => {
                dismiss(toast.id);
                toast.action?.run();
              }}>
                {toast.action.label}
              </button>
            )}
            <IconButton icon="close" label="Dismiss" onClick={() => dismiss(toast.id)} />
          </div>
        ))}
      </div>
    </>
  );
}
