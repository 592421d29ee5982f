/** Which version wrote this: a number in a pill, with the full name one hover away. */
import { link } from "../state/route";
import type { VersionRef } from "../types";

export function VersionBadge({ version, live = false }: { version: VersionRef; live?: boolean }) {
  return (
    <a class={`badge ${live ? "live" : ""}`} href={link.version(version.id)} title={`Version ${version.number}: ${version.name}`}
      data-version={version.number}>
      v{version.number}
      {live && <span class="badge-note">live</span>}
    </a>
  );
}

export function Chip({ kind, children }: { kind: string; children: string }) {
  return <span class={`chip ${kind}`}>{children}</span>;
}
