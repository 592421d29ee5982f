"""Reads the blind votes between two versions out of the store.

A vote counts when both answers were shown blind, side by side, one from each version, and it is the person's newest
word on that presentation. Knows no statistics and no thresholds.
"""

from __future__ import annotations

from tutee.data.wording import word_count
from tutee.evaluate.votes import Vote, Winner
from tutee.store import Store
from tutee.store.records import StoredPresentation


def votes_between(store: Store, candidate_id: str, live_id: str) -> list[Vote]:
    """All such votes, oldest first; answers by other versions, withdrawn and erased votes are left out."""
    since = store.versions.get(candidate_id).created_at
    judged = [f for f in store.feedback.live(kind="compare", since=since) if f.presentation_id is not None]
    shown = store.presentations.get_many([f.presentation_id for f in judged if f.presentation_id is not None])
    blind = {key: p for key, p in shown.items() if p.blind and len(p.generation_ids) == 2}
    made = store.generations.get_many([g for p in blind.values() for g in p.generation_ids])
    counted: list[tuple[str, Winner, StoredPresentation, int]] = []
    for feedback in judged:
        presentation = blind.get(feedback.presentation_id or "")
        if presentation is None or not all(g in made for g in presentation.generation_ids):
            continue
        authors = [made[g].version_id for g in presentation.generation_ids]
        if set(authors) == {candidate_id, live_id}:
            ours = authors.index(candidate_id)
            counted.append((feedback.actor_id, _winner(feedback.payload["winner"], ours), presentation, ours))
    said = store.messages.paths([message for _, _, presentation, _ in counted for message in presentation.message_ids])
    votes = []
    for person, winner, presentation, ours in counted:
        words = [word_count(said[message][-1].content) for message in presentation.message_ids]
        votes.append(Vote(person, winner, words[ours], words[1 - ours]))
    return votes


def _winner(choice: str, ours: int) -> Winner:
    if choice == "both_bad":
        return "both_bad"
    if choice == "tie":
        return "tie"
    return "candidate" if choice == "ab"[ours] else "live"
