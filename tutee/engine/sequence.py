"""A request on its way through the engine: its tokens, how far the cache has them, and what its sampler remembers.

Knows the state of one generation and nothing of others. Belongs to the thread that steps the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tutee.engine.grammar import Matcher
from tutee.engine.lookup import Lookup, Unguessed
from tutee.engine.readout import Readout
from tutee.engine.request import Chunk, FinishReason, Request
from tutee.engine.sampler import Sampled, SamplerState
from tutee.engine.text import TextStream
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained
from tutee.model.tokenizer import Detokenizer


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Version:
    """Weights that a request runs on: the base (`lora` None) or an adapter over it. `root` starts its cached
    prefixes; at any time there is one object of a root."""

    name: str
    lora: Lora | None
    root: int


@dataclass(slots=True, eq=False)
class Sequence:
    """One generation. `tokens` is the prompt and what was sampled; the cache holds the first `computed` of them."""

    request: Request
    version: Version
    sampler: SamplerState
    text: TextStream
    arrival: int
    stop_ids: frozenset[int]
    max_length: int
    """Tokens of prompt and answer after which it must stop."""
    tokens: list[int]
    prompt_length: int
    computed: int = 0
    reused: int = 0
    """Leading tokens whose keys and values lie in blocks found in the cache, shared with others: never written
    again."""
    blocks: list[int] = field(default_factory=list)
    contents: list[int] = field(default_factory=list)
    """Content numbers of the announced leading blocks."""
    admitted_before: bool = False
    admitted_at: float = 0.0
    """Monotonic seconds of the first time that it was admitted."""
    last_token_at: float | None = None
    lookup: Lookup = field(default_factory=Lookup)
    readout: Readout | None = None
    """Who wants to see the rows of the prompt."""

    @property
    def rank(self) -> tuple[int, int]:
        """Who keeps its place longer: priority, then arrival."""
        return self.request.priority, self.arrival

    @property
    def remaining(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def reading(self) -> bool:
        """Whether rows of the prompt are still to be seen."""
        return self.readout is not None and self.readout.position < self.prompt_length

    @property
    def reusable(self) -> list[int]:
        """The tokens whose keys and values may come from the cache: what is read off a row needs it computed."""
        return self.tokens[: self.readout.position] if self.readout is not None and self.reading else self.tokens

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    def extend(self, rows: Sampled) -> Chunk:
        """Append sampled tokens up to where the answer ends, if it ends among them; returns what to tell the caller."""
        texts: list[str] = []
        reason: FinishReason | None = None
        before = len(self.tokens)
        for token in rows.tokens:
            self.tokens.append(token)
            self.sampler.accept(token)
            reason = self._end(token, texts)
            if reason is not None:
                break
        count = len(self.tokens) - before
        return Chunk(
            text="".join(texts),
            token_ids=tuple(rows.tokens[:count]),
            version=self.version.name,
            logprobs=tuple(value for value in rows.logprobs[:count] if value is not None),
            top_logprobs=tuple(rows.top_logprobs[:count]) if self.request.params.logprobs else (),
            finish_reason=reason,
        )

    def _end(self, token: int, texts: list[str]) -> FinishReason | None:
        """Why the answer ends with its newest token, if it does; adds the text that can be shown now."""
        if token in self.stop_ids:
            texts.append(self.text.finish())
            return "stop"
        texts.append(self.text.push(token, look_for_stop=self.generated >= self.request.params.min_tokens))
        if self.text.stopped:
            return "stop"
        if len(self.tokens) >= self.max_length:
            texts.append(self.text.finish())
            return "length"
        return None


def begin(
    request: Request,
    version: Version,
    model: Pretrained,
    context_length: int,
    arrival: int,
    readout: Readout | None = None,
    matcher: Matcher | None = None,
) -> Sequence:
    """The sequence of a request that nothing was computed of yet; `matcher` at the beginning of its grammar."""
    params, prompt = request.params, request.prompt
    ends = model.chat_format.stop_ids
    length = context_length if params.max_tokens is None else len(prompt) + params.max_tokens
    return Sequence(
        request=request,
        version=version,
        sampler=SamplerState(params, request.seed, prompt, ends, matcher),
        text=TextStream(Detokenizer(model.tokenizer, spoken=params.spoken), params.stop),
        arrival=arrival,
        stop_ids=frozenset() if params.ignore_eos else ends,
        max_length=min(length, context_length),
        tokens=list(prompt),
        prompt_length=len(prompt),
        readout=readout,
        lookup=Lookup() if matcher is None else Unguessed(),
    )
