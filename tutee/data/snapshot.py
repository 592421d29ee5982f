"""Snapshots: what was collected, scrubbed, frozen and named by its content.

The name is the sha256 of a manifest: one line of canonical JSON for the header, then one for each row and prompt with
its split and the sha256 of its canonical JSON. The same rows give the same name on any day and in any order of work,
and the name still proves what was in a snapshot after erasure has emptied some of its rows. Only scrubbed text is kept;
what scrubbing took out of which text is recorded by hash and position alone. Does not know how rows are made
(`from_feedback.py`) nor trained on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tutee.conversation import Message
from tutee.data.from_feedback import Collected, Reason
from tutee.data.prompts import Prompt, prompt_from, prompt_payload
from tutee.data.rows import PairRow, Reply, Row, Split, canonical, from_payload, kind_of, sha256_of, to_payload
from tutee.data.splits import RULE
from tutee.data.threads import consented
from tutee.errors import Unavailable
from tutee.safety import redact
from tutee.store import Store
from tutee.store.records import SnapshotItem
from tutee.store.schema import Scrub

FORMAT = "tutee-snapshot-1"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A frozen dataset as trainers read it; erased rows are gone from it. `counts` is flat: name → number."""

    sha: str
    kind: str
    rows: tuple[Row, ...]
    prompts: tuple[Prompt, ...]
    counts: Mapping[str, int]
    split_rule: str

    def of(self, split: Split) -> tuple[Row, ...]:
        """The rows of one split."""
        return tuple(row for row in self.rows if row.split == split)


def freeze(store: Store, collected: Collected, kind: str = "mixed", parent: str | None = None) -> Snapshot:
    """Scrub every text, then store rows, lineage and scrub records. The same rows again change nothing.

    Consent and erasure are looked at once more: what was taken back since `collect` stays out.

    Args:
        parent: sha of the snapshot that the live version was made from, for the lineage.

    Raises:
        NotFound: no such parent.
    """
    scrubber = _Scrubber()
    talked = {row.origin.conversation_id for row in collected.rows} | {p.conversation_id for p in collected.prompts}
    allowed = {conversation.id for conversation in consented(store, talked)}
    live = {event.id for event in store.feedback.live()}
    rows = [r for r in collected.rows if r.origin.conversation_id in allowed and live.issuperset(r.origin.feedback_ids)]
    rows = [scrubber.row(row) for row in rows]
    prompts = [scrubber.prompt(prompt) for prompt in collected.prompts if prompt.conversation_id in allowed]
    items = [item for row in rows for item in _items(row)] + [_prompt_item(prompt) for prompt in prompts]
    sha = _name(kind, RULE, redact.VERSION, items)
    scrubber.save(store)
    stored = store.snapshots.add(
        sha,
        kind,
        _counts(rows, prompts, collected, len(scrubber.records)),
        items,
        query=f"live, consented feedback and prompts; redaction {redact.VERSION}",
        code_sha=_code_sha(),
        parent_sha=None if parent == sha else parent,
        split_rule=RULE,
    )
    return Snapshot(sha, kind, tuple(rows), tuple(prompts), stored.counts, RULE)


def load(store: Store, sha: str) -> Snapshot:
    """A stored snapshot, checked against its hashes, without what was erased since.

    Raises:
        NotFound: no such snapshot.
        Unavailable: its rows are not what was frozen (code snapshot_damaged).
    """
    stored = store.snapshots.get(sha)
    found = [row for row in store.snapshots.rows(sha) if row.payload]
    for row in found:
        if sha256_of(row.payload) != row.row_sha:
            raise Unavailable(f"Row {row.position} of snapshot {sha[:12]} was changed.", code="snapshot_damaged")
    rows, prompts = [], []
    for row in found:
        split: Split = "held_out" if row.split == "held_out" else "train"
        if row.kind == "prompt":
            prompts.append(prompt_from(row.payload or {}, split))
        else:
            rows.append(from_payload(row.payload or {}, split))
    return Snapshot(sha, stored.kind, tuple(rows), tuple(prompts), stored.counts, stored.split_rule or "")


def scrubbed(rows: Iterable[Row]) -> list[Row]:
    """The rows as a snapshot would hold them, for a file that leaves this home."""
    scrubber = _Scrubber()
    return [scrubber.row(row) for row in rows]


class _Scrubber:
    """Redacts texts and remembers, by hash, what it took out."""

    def __init__(self) -> None:
        self.records: dict[str, Scrub] = {}

    def row(self, row: Row) -> Row:
        prompt = self._messages(row.prompt)
        same = prompt == row.prompt
        if isinstance(row, PairRow):
            chosen, rejected = self._reply(row.chosen, same), self._reply(row.rejected, same)
            return replace(row, prompt=prompt, chosen=chosen, rejected=rejected)
        return replace(row, prompt=prompt, reply=self._reply(row.reply, same))

    def prompt(self, prompt: Prompt) -> Prompt:
        return replace(prompt, messages=self._messages(prompt.messages))

    def save(self, store: Store) -> None:
        with store.database.write(lock="scrubs") as session:
            for record in self.records.values():
                if session.get(Scrub, record.id) is None:
                    session.add(record)

    def _messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(replace(message, content=self._text(message.content)) for message in messages)

    def _reply(self, reply: Reply, same_prompt: bool) -> Reply:
        """Token ids would still say what the text no longer says: they go with it."""
        text = self._text(reply.text)
        return replace(reply, text=text, sampled=reply.sampled if same_prompt and text == reply.text else None)

    def _text(self, text: str) -> str:
        clean = redact.redact(text.encode("utf-8", "replace").decode())
        if clean.entities:
            before, after = _sha_of(text), _sha_of(clean.text)
            id = f"scrub-{_sha_of(f'{redact.VERSION} {before}')[:32]}"
            entities = [{"kind": e.kind, "start": e.start, "end": e.end} for e in clean.entities]
            self.records[id] = Scrub(
                id=id,
                blob_sha=before,
                tool="tutee.safety.redact",
                version=redact.VERSION,
                entities=entities,
                out_blob_sha=after,
            )
        return clean.text


def _items(row: Row) -> list[SnapshotItem]:
    """The row under its newest feedback; its older feedback leads to an empty item of the same hash."""
    payload, kind, actor_id = to_payload(row), kind_of(row), row.origin.actor_id
    sha = sha256_of(payload)
    *older, newest = row.origin.feedback_ids
    whole = SnapshotItem(sha, row.split, kind, payload, newest, actor_id)
    return [whole, *(SnapshotItem(sha, row.split, kind, {}, id, actor_id) for id in older)]


def _prompt_item(prompt: Prompt) -> SnapshotItem:
    payload = prompt_payload(prompt)
    return SnapshotItem(sha256_of(payload), prompt.split, "prompt", payload, None, prompt.actor_id)


def _name(kind: str, split_rule: str, redaction: str, items: Iterable[SnapshotItem]) -> str:
    header = {"format": FORMAT, "kind": kind, "split_rule": split_rule, "redaction": redaction}
    lines = [canonical(header)]
    lines += [canonical({"kind": i.kind, "split": i.split, "row": i.row_sha}) for i in items if i.payload]
    return _sha_of("\n".join(lines))


def _counts(rows: Sequence[Row], prompts: Sequence[Prompt], collected: Collected, scrubs: int) -> dict[str, int]:
    counts = Counter[str](kind_of(row) for row in rows)
    counts.update(row.split for row in rows)
    counts.update(row.origin.source for row in rows)
    return dict(sorted(counts.items())) | {
        "rows": len(rows),
        "prompts": len(prompts),
        "held_out_prompts": sum(prompt.split == "held_out" for prompt in prompts),
        "feedback": len({id for row in rows for id in row.origin.feedback_ids}),
        "people": len({row.origin.actor_id for row in rows}),
        "conversations": len({row.origin.conversation_id for row in rows}),
        "unusable": len(collected.unusable),
        "ties": collected.reasons.get(Reason.TIE, 0),
        "scrubbed_texts": scrubs,
    }


def _code_sha() -> str:
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), Path(redact.__file__)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


def _sha_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
