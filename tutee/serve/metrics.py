"""Numbers for operators, in Prometheus' text format. All names begin with `tutee_`.

Counted here, by the handlers:
    http_requests_total{method,route,status}    finished HTTP requests
    feedback_total{kind}                        feedback events
Read from the engines at each scrape, summed over them:
    prompt_tokens_total, cached_tokens_total    prompt tokens, and those of them that the prefix cache had
    generated_tokens_total{version}             sampled tokens
    engine_requests_total, engine_steps_total, engine_preemptions_total, engine_failures_total
    engine_guessed_tokens_total, engine_accepted_tokens_total        tokens computed ahead, and those that were right
    time_to_first_token_seconds                 histogram: from submission to the first token
    inter_token_seconds                         histogram: between two tokens of one answer
    queue_seconds                               histogram: from submission to a place in the batch
    batch_size                                  histogram: sequences in one step
    engine_running, engine_waiting              gauges: requests in the batch, and before it
    engine_blocks_used, engine_blocks_cached, engine_blocks_total    gauges: blocks of the key and value cache
    engine_tokens_per_second                    gauge: sampled tokens, over the last seconds
    answers_being_written                       gauge: answers of the native routes that are not saved whole yet

One registry per app, so two servers in one process (tests) do not share counters.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from tutee.engine.stats import EngineStats, Histogram

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

TOTALS = {
    "prompt_tokens_total": "prompt_tokens",
    "cached_tokens_total": "cached_tokens",
    "requests_total": "engine_requests",
    "steps_total": "engine_steps",
    "preemptions_total": "engine_preemptions",
    "failures_total": "engine_failures",
    "guessed_tokens_total": "engine_guessed_tokens",
    "accepted_tokens_total": "engine_accepted_tokens",
}
GAUGES = ("running", "waiting", "blocks_used", "blocks_cached", "blocks_total", "tokens_per_second")


class Metrics:
    """The counters that handlers increase, and whatever is watched."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tutee_http_requests", "Finished HTTP requests", ("method", "route", "status"), registry=self.registry
        )
        self.feedback = Counter("tutee_feedback", "Feedback events", ("kind",), registry=self.registry)

    def watch(self, engines: Callable[[], Sequence[EngineStats]], answers: Callable[[], int]) -> None:
        """Read the engines' counts, and how many answers are being written, at every scrape."""
        self.registry.register(_Engines(engines, answers))

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self.registry)


class _Engines(Collector):
    def __init__(self, engines: Callable[[], Sequence[EngineStats]], answers: Callable[[], int]) -> None:
        self.engines = engines
        self.answers = answers

    def collect(self) -> Iterable[Family]:
        stats = self.engines()
        for field, name in TOTALS.items():
            total = sum(getattr(each, field) for each in stats)
            yield CounterMetricFamily(f"tutee_{name}", name.replace("_", " "), value=total)
        generated = CounterMetricFamily("tutee_generated_tokens", "Sampled tokens", labels=("version",))
        for each in stats:
            for version, count in each.generated_by_version.items():
                generated.add_metric((version,), count)
        yield generated
        for field in GAUGES:
            value = sum(getattr(each, field) for each in stats)
            yield GaugeMetricFamily(f"tutee_engine_{field}", f"engine {field.replace('_', ' ')}", value=value)
        yield GaugeMetricFamily("tutee_answers_being_written", "Answers not saved whole yet", value=self.answers())
        for name in stats[0].histograms if stats else ():
            yield _histogram(name, [each.histograms[name] for each in stats])


def _histogram(name: str, parts: Sequence[Histogram]) -> HistogramMetricFamily:
    """Several engines' histograms of one name as one."""
    counts: Counts[float] = Counts()
    for part in parts:
        counts.update(dict(zip((*part.bounds, float("inf")), part.counts, strict=True)))
    heights = accumulate(counts[bound] for bound in sorted(counts))
    buckets = [
        ("+Inf" if bound == float("inf") else str(float(bound)), height)
        for bound, height in zip(sorted(counts), heights, strict=True)
    ]
    family = HistogramMetricFamily(f"tutee_{name}", name.replace("_", " "))
    family.add_metric((), buckets, sum(part.sum for part in parts))
    return family
