"""Which prompts are held out: one decision per group of conversations and near-identical prompts, and per person.

The rule (a snapshot carries it as `RULE`):

1. Prompts are near-identical if their user turns are equal after folding case, punctuation and spaces, or if at least
   four fifths of their character 5-grams are shared (Jaccard). Prompts of one conversation, and near-identical prompts,
   form one group, transitively.
2. The first prompt of a group to arrive decides for the group, by hash. Whoever joins later follows. If a prompt joins
   two groups of which one is held out, both are held out from then on. So new prompts never turn others over, except
   by such a merge. The first group of a home trains; if the first six all train, the seventh is held out, so that one
   person's home too soon has something to measure with.
3. From ten people on, about one in ten is held out as a person: what he starts is held out for all, and nothing of his
   trains. What he asks after others have trained on it is set aside: neither trained on (it is his) nor measured with.

Knows nothing of the store or of rows; a person is whatever string names one for good.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tutee.data.rows import Split

SALT = "tutee"
PEOPLE_SHARE = 0.10
GROUP_SHARE = 0.15
MIN_PEOPLE = 10
SEEDS_WITHOUT = 6
NEAR = (4, 5)
GRAM = 5
MAX_CHARACTERS = 20_000
"""What is compared of a text: a pasted book is known by its beginning."""
RULE = (
    f"splits-1 salt={SALT} people={PEOPLE_SHARE} from {MIN_PEOPLE} groups={GROUP_SHARE} "
    f"near={NEAR[0]}/{NEAR[1]} of {GRAM}-grams, first prompt of a group decides, held out wins a merge"
)


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt, for the purpose of splitting: who asked, in which conversation, and the user's turns as one text."""

    person: str
    conversation_id: str
    text: str


def assign(items: Sequence[Item], salt: str = SALT) -> list[Split | None]:
    """Decide for each item; items come in the order of their arrival.

    Returns:
        For each item its split, or None: of a held-out person, on a prompt that others train on (set aside).
    """
    texts = [normalise(item.text) for item in items]
    people = {item.person for item in items}
    away = {p for p in people if len(people) >= MIN_PEOPLE and _chance(salt, "person", p) < PEOPLE_SHARE}
    earlier: list[list[int]] = [[] for _ in items]
    for left, right in near_pairs(texts):
        earlier[right].append(left)
    last_of: dict[str, int] = {}
    groups = _Groups(len(items))
    seeds = 0
    for i, item in enumerate(items):
        if item.conversation_id in last_of:
            earlier[i].append(last_of[item.conversation_id])
        last_of[item.conversation_id] = i
        if earlier[i]:
            for j in earlier[i]:
                groups.join(i, j)
            continue
        lucky = _chance(salt, "prompt", texts[i]) < GROUP_SHARE
        none_yet = seeds >= SEEDS_WITHOUT and not groups.any_held_out
        if item.person in away or (seeds > 0 and lucky) or none_yet:
            groups.hold_out(i)
        seeds += item.person not in away
    splits: list[Split | None] = []
    for i, item in enumerate(items):
        held_out = groups.held_out(i)
        splits.append("held_out" if held_out else None if item.person in away else "train")
    return splits


def normalise(text: str) -> str:
    """Fold what does not make a prompt another prompt: case, width, punctuation, spaces.

    A text of nothing but signs keeps them.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(c if c.isalnum() else " " for c in folded).split()
    return " ".join(words) if words else "".join(folded.split())


def near_pairs(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of near-identical normalised texts; for equal texts only each with the first of them.

    Exact: if two sets share `NEAR` of their elements they share one of their few rarest (prefix filtering; Chaudhuri
    et al. 2006), so only texts with a rare 5-gram in common are compared.
    """
    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        if text in first:
            yield first[text], i
        else:
            first[text] = i
    share, whole = NEAR
    grams = {i: _grams(text) for text, i in first.items()}
    frequency = Counter(gram for own in grams.values() for gram in own)
    having: dict[str, list[int]] = defaultdict(list)
    for i in sorted(grams, key=lambda i: (len(grams[i]), i)):
        own = grams[i]
        needed = -(-share * len(own) // whole)
        rare = sorted(own, key=lambda gram: (frequency[gram], gram))[: len(own) - needed + 1]
        for j in sorted({j for gram in rare for j in having[gram] if len(grams[j]) >= needed}):
            if whole * len(own & grams[j]) >= share * len(own | grams[j]):
                yield min(i, j), max(i, j)
        for gram in rare:
            having[gram].append(i)


def _grams(text: str) -> set[str]:
    end = min(len(text), MAX_CHARACTERS) - GRAM + 1
    return {text[k : k + GRAM] for k in range(end)}


def _chance(salt: str, what: str, key: str) -> float:
    """A number in [0, 1) that only depends on its arguments."""
    digest = hashlib.sha256(f"{salt}\0{what}\0{key}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class _Groups:
    """Union-find in which a held-out group makes what it is joined with held out."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))
        self._held_out = [False] * size
        self.any_held_out = False

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        a, b = self._root(i), self._root(j)
        self._parent[a] = b
        self._held_out[b] |= self._held_out[a]

    def hold_out(self, i: int) -> None:
        self._held_out[self._root(i)] = True
        self.any_held_out = True

    def held_out(self, i: int) -> bool:
        return self._held_out[self._root(i)]
