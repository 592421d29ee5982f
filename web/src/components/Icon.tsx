/** The page's icons: strokes on a 24-pixel grid, coloured by the text around them. */

const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h10",
  close: "M6 6l12 12M18 6L6 18",
  plus: "M12 5v14M5 12h14",
  search: "M11 5a6 6 0 1 0 0 12a6 6 0 0 0 0-12zM15.5 15.5L20 20",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  send: "M12 19V5.5M6 11l6-6l6 6",
  stop: "M8 8h8v8H8z",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "M5 12.5l4.5 4.5L19 7.5",
  retry: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  two: "M4 6h6.5v12H4zM13.5 6H20v12h-6.5z",
  up: "M7 11v9H4v-9zM7 11l4-7c1.6 0 2.4 1 2.2 2.4L12.7 10h5.1c1.4 0 2.3 1.2 2 2.5l-1.4 5.7c-.3 1.1-1.2 1.8-2.3 1.8H7",
  down: "M17 13V4h3v9zM17 13l-4 7c-1.6 0-2.4-1-2.2-2.4l.5-3.6H6.2c-1.4 0-2.3-1.2-2-2.5l1.4-5.7C5.9 4.7 6.8 4 7.9 4H17",
  pencil: "M5 19l1-4L16.5 4.5l3 3L9 18zM14 7l3 3",
  quill: "M5 20c1-8 5-14 14-16c0 7-4 11-11 12M9 13l4-4",
  left: "M14.5 6l-6 6l6 6",
  right: "M9.5 6l6 6l-6 6",
  arrowDown: "M12 5v13M6 12.5l6 6l6-6",
  sun: "M12 8a4 4 0 1 0 0 8a4 4 0 0 0 0-8zM12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1.1 1.1M17.3 17.3l1.1 1.1M5.6 18.4l1.1-1.1M17.3 6.7l1.1-1.1",
  moon: "M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z",
  gear: "M4 7h9M17 7h3M15 5v4M4 17h3M11 17h9M9 15v4M4 12h5M13 12h7M11 10v4",
  growth: "M4 19h16M6 15l4-5l4 3l5-8M15.5 5H19v3.5",
  layers: "M12 4l8 4.5l-8 4.5l-8-4.5zM4 13l8 4.5L20 13",
  notes: "M6 4h12v16H6zM9 9h6M9 12.5h6M9 16h3",
  ghost: "M6 19V11a6 6 0 0 1 12 0v8l-2-1.5L14 19l-2-1.5L10 19l-2-1.5zM10 11h.01M14 11h.01",
  key: "M8 11a4 4 0 1 0 0 8a4 4 0 0 0 0-8zM11 12.5L19 4.5M16.5 7l2.5 2.5",
  flag: "M6 20V5h11l-2 3.5L17 12H6",
  trash: "M5 7h14M10 7V5h4v2M7 7l1 13h8l1-13",
  warning: "M12 4.5L20.5 19h-17zM12 10v4M12 16.5h.01",
  question: "M8.5 9a3.5 3.5 0 1 1 5 3.1c-1 .5-1.5 1.2-1.5 2.4M12 18.5h.01",
  back: "M19 12H5.5M11 6l-6 6l6 6",
} as const;

export type IconName = keyof typeof PATHS;

/** Decoration only: the control around it carries the name. */
export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
