"""Answers from another server: the engine's interface over anything that speaks OpenAI's chat completions.

For models too big for this machine: vLLM, SGLang, llama.cpp, Ollama, or a provider. Requests are streamed, an abort
closes the connection (which frees the upstream's slot), `retry-after` is respected, and nothing that comes back is
trusted: types are checked, sizes bounded, redirects and compressed bodies refused.

What an upstream cannot give, and what is therefore refused by name: token ids, the model's own log-probs, the weights'
hash, and every sampling parameter that OpenAI's API does not have (an upstream may ignore those silently, or have
defaults of its own for them). Whoever trains needs the ids; so nothing is trained here. Text that a reasoning model
thinks aloud (`reasoning_content`) is not part of the answer and is dropped.

One thread with an event loop of its own: the network is an edge, and cancelling a task is the one sure way to end a
connection at any stage. Does not know who asks, nor what the answer is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from collections.abc import Sequence as Seq
from functools import partial
from typing import Any

import httpx

from tutee.conversation import Message
from tutee.engine.request import Chunk, Completion, FinishReason, Request, SamplingParams
from tutee.engine.stats import Counters, EngineStats
from tutee.engine.upstream_reply import Choice, LaterError, check_status, not_understood, read_events, read_models
from tutee.engine.upstream_request import UpstreamRequest
from tutee.errors import Busy, InvalidInput, NotFound, TuteeError, Unavailable

_log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Times that one request is sent while the upstream says "later"."""
LONGEST_PAUSE_S = 20.0
"""A longer `retry-after` is passed on to whoever asks."""
TAIL_S = 2.0
"""How long the counts may take after the answer has ended."""
LONGEST_ANSWER = 4 << 20
"""Characters."""
REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class Upstream:
    """One model of one server.

    Args:
        url: as an OpenAI client's `base_url`, with `/v1`.
        model: the upstream's name for it.
        version: our name for it; what requests carry.
        key: sent as a bearer token when not empty; never logged.
        max_running: most connections at once.
        max_waiting: requests beyond those before `submit` raises `Busy`.
        silence_s: longest time without a byte: it covers the upstream's own queue and the prefill of a long prompt.

    Raises:
        InvalidInput: param `upstream`, not an http(s) URL.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        version: str,
        key: str = "",
        max_running: int = 32,
        max_waiting: int = 1024,
        connect_s: float = 10.0,
        silence_s: float = 300.0,
    ) -> None:
        self._model = model
        self._version = version
        self._url = check_url(url)
        self._most = max_running + max_waiting
        self._max_running = max_running
        self._counters = Counters()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._later = 0.0
        """Until when (monotonic) the upstream wants no requests."""
        self._closed = False
        self.context_length: int | None = None
        """Tokens of prompt and answer together, if `introduce` could learn it; the upstream enforces it anyway."""
        headers = {"accept-encoding": "identity", "user-agent": "tutee"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._http = httpx.AsyncClient(
            base_url=self._url,
            headers=headers,
            timeout=httpx.Timeout(silence_s, connect=connect_s, pool=None),
            limits=httpx.Limits(max_connections=max_running, max_keepalive_connections=max_running),
        )
        self._room = asyncio.Semaphore(max_running)
        self._tasks: dict[UpstreamRequest, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)
        self._thread.start()

    @property
    def versions(self) -> tuple[str, ...]:
        """The one name that `submit` accepts."""
        return (self._version,)

    @property
    def stats(self) -> EngineStats:
        """Counts of what passed through; an upstream's cache and steps are its own."""
        counters, running = self._counters, min(self._unfinished, self._max_running)
        return EngineStats(
            running=running,
            waiting=self._unfinished - running,
            blocks_used=0,
            blocks_cached=0,
            blocks_total=0,
            tokens_per_second=counters.rate(),
            requests_total=counters.requests,
            prompt_tokens_total=counters.prompt_tokens,
            cached_tokens_total=0,
            generated_tokens_total=counters.generated.total(),
            preemptions_total=0,
            steps_total=0,
            failures_total=counters.failures,
            guessed_tokens_total=0,
            accepted_tokens_total=0,
            generated_by_version=dict(counters.generated),
            histograms=counters.histograms(),
        )

    def introduce(self, timeout_s: float = 5.0) -> None:
        """Ask the upstream what it serves, and learn the context length where it says so (vLLM, SGLang).

        Raises:
            NotFound: it lists its models, and ours is not among them (code `upstream_model_not_found`).
            Unavailable: it does not answer, refuses our key, or answers what nobody can read.
        """
        self._call(self._introduce(), timeout_s)

    def submit(
        self,
        prompt: Seq[Message],
        params: SamplingParams,
        *,
        version: str | None = None,
        priority: int = 0,
        owner: str | None = None,
        on_chunk: Callable[[Chunk], None] | None = None,
    ) -> Request:
        """Ask for one answer to a conversation and return at once, as `Engine.submit` does with token ids.

        First come, first served: `priority` and `owner` are noted, but the queue that matters is the upstream's.
        `on_chunk` is called from the upstream's thread. What goes wrong later ends the request with "error" and
        `request.error`: InvalidInput (the upstream refuses the request: its words), Busy (it wants us later), or
        Unavailable (codes `upstream_unreachable`, `upstream_refused_key`, `upstream_failed`, `upstream_cut_off`,
        `upstream_protocol`).

        Raises:
            InvalidInput: an empty prompt, or a parameter that an upstream cannot follow (code `upstream_cannot`).
            NotFound: another version. Busy: too many requests, or the upstream wants no more now.
            Unavailable: closed.
        """
        if version not in (None, self._version):
            raise NotFound(f"The model {version!r} is not loaded.", param="model", code="model_not_found")
        request = UpstreamRequest(
            params, self._cancel, version=self._version, priority=priority, owner=owner, on_chunk=on_chunk
        )
        body = request.body(self._model, prompt)
        with self._lock:
            if self._closed:
                raise Unavailable("The upstream's connection is closed.")
            if self._unfinished >= self._most:
                raise Busy(f"{self._most} requests are with the upstream already; try again later.")
            self._unfinished += 1
            self._counters.requests += 1
            self._loop.call_soon_threadsafe(self._begin, request, body)
        return request

    def generate(
        self, prompts: Seq[Seq[Message]], params: SamplingParams | Seq[SamplingParams], *, n: int = 1
    ) -> list[list[Completion]]:
        """`n` answers to every conversation, in order; waits for all. An error aborts the rest, as in `Engine`."""
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(each) != len(prompts) or n < 1:
            raise InvalidInput("'params' must be one, or one for each prompt, and 'n' at least 1.", param="params")
        requests: list[Request] = []
        try:
            for prompt, one in zip(prompts, each, strict=True):
                requests += [self.submit(prompt, one.for_sample(i)) for i in range(n)]
            results = [request.result() for request in requests]
            for request in requests:
                if request.missing:
                    raise request.error or Unavailable("A generation was aborted.")
        except BaseException:
            for request in requests:
                request.abort()
            raise
        return [results[start : start + n] for start in range(0, len(results), n)]

    def close(self) -> None:
        """Abort what is running and end the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._call(self._end(), 10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None], timeout_s: float) -> None:
        """Run a coroutine in the loop and wait for it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise Unavailable(f"{self._url} does not answer.", code="upstream_unreachable") from None

    # In the loop's thread

    def _begin(self, request: UpstreamRequest, body: dict[str, Any]) -> None:
        if request.aborted or self._closed:
            self._finish(request, "abort")
            return
        task = self._loop.create_task(self._run(request, body))
        self._tasks[request] = task
        task.add_done_callback(partial(self._ended, request))

    def _cancel(self, request: UpstreamRequest) -> None:
        def cancel() -> None:
            task = self._tasks.get(request)
            if task is not None:
                task.cancel()

        with contextlib.suppress(RuntimeError):  # the loop is closed, and everything in it has ended
            self._loop.call_soon_threadsafe(cancel)

    def _ended(self, request: UpstreamRequest, task: asyncio.Task[None]) -> None:
        del self._tasks[request]
        if request.done:
            return
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._fail(request, error)
        else:
            self._finish(request, request.finish_reason or "abort")

    def _fail(self, request: UpstreamRequest, error: Exception) -> None:
        if not isinstance(error, TuteeError):
            _log.error("A request to %s failed", self._url, exc_info=error)
            error = Unavailable("The upstream could not be asked.", code="upstream_failed")
        elif isinstance(error, Unavailable):
            _log.warning("%s: %s", self._url, error.message)
        self._counters.failures += 1
        request.error = error
        self._finish(request, "error")

    def _finish(self, request: UpstreamRequest, reason: FinishReason) -> None:
        with self._lock:
            self._unfinished -= 1
        self._counters.prompt_tokens += request.prompt_tokens
        self._counters.generated[self._version] += request.generated_tokens or 0
        with contextlib.suppress(Exception):  # a listener that raises has its last chunk already
            request.deliver(Chunk("", (), self._version, finish_reason=reason))

    async def _run(self, request: UpstreamRequest, body: dict[str, Any]) -> None:
        async with self._room:
            for attempt in range(ATTEMPTS):
                await self._until_welcome()
                try:
                    await self._stream(request, body)
                    return
                except LaterError as later:
                    self._later = max(self._later, time.monotonic() + later.seconds)
                    if attempt == ATTEMPTS - 1:
                        raise Busy("The upstream is busy; try again later.", retry_after=later.seconds) from None
                except (httpx.RemoteProtocolError, httpx.ReadError) as error:
                    # An idle connection that the upstream closed as we used it: once more on a fresh one.
                    if attempt or request.length or request.finish_reason:
                        raise self._lost(error) from error
                except httpx.HTTPError as error:
                    raise self._lost(error) from error

    async def _until_welcome(self) -> None:
        """Send nothing before the moment that the upstream named; give up if that is far off."""
        pause = self._later - time.monotonic()
        if pause > LONGEST_PAUSE_S:
            raise Busy("The upstream is busy; try again later.", retry_after=pause)
        await asyncio.sleep(max(pause, 0.0))

    def _lost(self, error: httpx.HTTPError) -> Unavailable:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return Unavailable(f"{self._url} cannot be reached.", code="upstream_unreachable")
        what = "says nothing any more" if isinstance(error, httpx.TimeoutException) else "ended the connection"
        return Unavailable(f"{self._url} {what}.", code="upstream_cut_off")

    async def _stream(self, request: UpstreamRequest, body: dict[str, Any]) -> None:
        async with self._http.stream("POST", "chat/completions", json=body) as response:
            await check_status(response, self._model)
            with contextlib.suppress(TimeoutError):  # a limit is only set once the answer is whole
                async with asyncio.timeout(None) as limit:
                    async for event in read_events(response):
                        if event.usage is not None:
                            request.prompt_tokens = max(0, event.usage.prompt_tokens)
                            request.generated_tokens = max(0, event.usage.completion_tokens)
                        for choice in event.choices:
                            self._add(request, choice)
                        if request.finish_reason is not None:
                            limit.reschedule(self._loop.time() + TAIL_S)
        if request.finish_reason is None:
            raise Unavailable("The upstream's answer ended in the middle.", code="upstream_cut_off")

    def _add(self, request: UpstreamRequest, choice: Choice) -> None:
        """Hand on what a chunk says."""
        if choice.index != 0:
            not_understood("one answer was asked for")
        text = choice.delta.content
        if text and request.finish_reason is None:
            if not request.length:
                self._counters.first_token.observe(time.monotonic() - request.submitted_at)
            request.length += len(text)
            if request.length > LONGEST_ANSWER:
                not_understood(f"an answer is longer than {LONGEST_ANSWER} characters")
            request.deliver(Chunk(text, (), self._version))
        if choice.finish_reason is not None:
            if choice.finish_reason not in REASONS:
                word = choice.finish_reason[:40]
                raise Unavailable(f"The upstream ended the answer with {word!r}.", code="upstream_failed")
            request.finish_reason = REASONS[choice.finish_reason]

    async def _introduce(self) -> None:
        try:
            async with self._http.stream("GET", "models") as response:
                if response.status_code == 404:  # it need not list anything to answer
                    return
                await check_status(response, self._model)
                models = await read_models(response)
        except httpx.HTTPError as error:
            raise self._lost(error) from error
        except LaterError:
            return
        ours = next((model for model in models if model.id == self._model), None)
        if ours is None:
            names = ", ".join(repr(model.id[:80]) for model in models[:5])
            message = f"The upstream does not list {self._model!r}; it lists: {names or 'nothing'}."
            raise NotFound(message, param="upstream_model", code="upstream_model_not_found")
        if ours.max_model_len is not None and ours.max_model_len > 0:
            self.context_length = ours.max_model_len

    async def _end(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()


def check_url(url: str) -> str:
    """The URL without a slash at its end. Raises InvalidInput (param `upstream`) unless it is http(s) with a host."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL("")
    if parts.scheme not in ("http", "https") or not parts.host or parts.userinfo or parts.query or parts.fragment:
        message = f"The upstream {url!r} must be an http(s) URL such as http://localhost:8080/v1, without a key in it."
        raise InvalidInput(message, param="upstream", code="invalid_value")
    return str(parts).rstrip("/")
