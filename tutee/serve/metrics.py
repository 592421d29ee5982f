"""Numbers for operators, in Prometheus' text format: requests, tokens, latency, and the engine's queue.

One registry per app, so two servers in one process (tests) do not share counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from tutee.engine.request import Completion

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters that handlers increase."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tutee_http_requests", "Finished HTTP requests", ("method", "route", "status"), registry=self.registry
        )
        self.prompt_tokens = Counter("tutee_prompt_tokens", "Prompt tokens of answers", registry=registry)
        self.cached_tokens = Counter("tutee_cached_tokens", "Prompt tokens found in the cache", registry=registry)
        self.generated_tokens = Counter(
            "tutee_generated_tokens", "Sampled tokens", ("version",), registry=self.registry
        )
        self.first_token = Histogram(
            "tutee_time_to_first_token_seconds",
            "From submission to the first token",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.feedback = Counter("tutee_feedback", "Feedback events", ("kind",), registry=registry)

    def answered(self, completion: Completion) -> None:
        """Count one finished answer."""
        self.prompt_tokens.inc(completion.prompt_tokens)
        self.cached_tokens.inc(completion.cached_tokens)
        self.generated_tokens.labels(completion.version).inc(len(completion.token_ids))
        if completion.ttft_s is not None:
            self.first_token.observe(completion.ttft_s)

    def watch(self, gauges: Callable[[], dict[str, float]]) -> None:
        """Read `gauges` (name to value) at every scrape."""
        self.registry.register(_Gauges(gauges))

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self.registry)


class _Gauges:
    def __init__(self, read: Callable[[], dict[str, float]]) -> None:
        self.read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, value in self.read().items():
            yield GaugeMetricFamily(f"tutee_{name}", name.replace("_", " "), value=value)
