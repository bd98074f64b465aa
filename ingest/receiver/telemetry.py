"""The receiver's own telemetry: Prometheus metrics, and spans if an endpoint is set."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from opentelemetry.trace import SpanKind, Tracer
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# On every export of our own spans, so that they are not traced again if they arrive here.
OWN_HEADER = "x-rehearsal-own"


class Count(Collector):
    """A Prometheus counter for one thread. The library's own takes a lock and looks up labels several times per
    request."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], registry: CollectorRegistry) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._values: defaultdict[tuple[str | int, ...], int] = defaultdict(int)
        registry.register(self)

    def add(self, by: int, *labels: str | int) -> None:
        """Add to the value of these labels."""
        self._values[labels] += by

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Called by the registry."""
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in list(self._values.items()):
            family.add_metric([str(label) for label in labels], value)
        yield family


class Metrics:
    """The receiver's metrics, all named ``rehearsal_receiver_*``. Only the event loop's thread counts requests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Count:
            return Count(f"rehearsal_receiver_{name}", text, labels, self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"rehearsal_receiver_{name}", text, buckets=buckets, registry=self.registry)

        self._requests = counter("requests", "Requests answered.", ("transport", "signal", "code"))
        self._items = counter("items", "Spans and log records.", ("signal", "result"))
        self._bytes = counter("journal_bytes", "Bytes made durable.", ("signal",))
        self._commit_seconds = histogram("commit_seconds", "Write and fsync of one group.", SECONDS)
        self._commit_requests = histogram("commit_requests", "Requests in one group.", SIZES)

    def watch(self, held: Callable[[], float], failures: Callable[[], float]) -> None:
        """Add a metric whose value is read at each scrape."""
        text = "Bytes in memory that are not yet durable."
        Gauge("rehearsal_receiver_held_bytes", text, registry=self.registry).set_function(held)
        text = "Groups that could not be written, since the start."
        Gauge("rehearsal_receiver_journal_failures", text, registry=self.registry).set_function(failures)

    def answered(self, transport: str, signal: str, code: int) -> None:
        """Count a request that was answered with an HTTP status or a gRPC code."""
        self._requests.add(1, transport, signal, code)

    def took(self, signal: str, accepted: int, rejected: int, size: int) -> None:
        """Count a durable request of this size, if any of its items was accepted."""
        self._items.add(accepted, signal, "accepted")
        self._bytes.add(size if accepted else 0, signal)
        if rejected:
            self._items.add(rejected, signal, "rejected")

    def committed(self, seconds: float, requests: int) -> None:
        """Count a durable group."""
        self._commit_seconds.observe(seconds)
        self._commit_requests.observe(requests)

    def exposition(self) -> str:
        """The text for a Prometheus scrape."""
        return generate_latest(self.registry).decode()


@dataclass(frozen=True)
class State:
    """The state of one receiver process: whether it can write its journal, and its metrics in Prometheus form."""

    healthy: bool = True
    metrics: str = ""


@dataclass(eq=False)
class _Families(Collector):
    """Metrics that another process counted."""

    families: list[Metric]

    def collect(self) -> list[Metric]:
        return self.families

    def text(self) -> str:
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry).decode()


def merged(expositions: Iterable[str]) -> str:
    """Merge the metrics of several processes: sums, and the earliest start time."""
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    families: dict[str, Metric] = {}
    for text in expositions:
        for family in text_string_to_metric_families(text):
            mine = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                if key not in values:
                    mine.samples.append(sample)
                    values[key] = sample.value
                elif sample.name.endswith("_created"):
                    values[key] = min(values[key], sample.value)
                else:
                    values[key] += sample.value
    for family in families.values():
        family.samples = [s._replace(value=values[s.name, tuple(s.labels.items())]) for s in family.samples]
    return _Families(list(families.values())).text()


def without_gauges(exposition: str) -> str:
    """The metrics that remain true after a process has ended."""
    return _Families([f for f in text_string_to_metric_families(exposition) if f.type != "gauge"]).text()


def own_tracer() -> Tracer | None:
    """A tracer for the receiver's own spans, or None if OpenTelemetry's variables name no endpoint."""
    named = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or not any(os.environ.get(name) for name in named):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "rehearsal-receiver"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(headers={OWN_HEADER: "1"})))
    return provider.get_tracer("ingest.receiver.service")


class OwnSpans:
    """One span per request, if an endpoint is set."""

    def __init__(self) -> None:
        self.tracer = own_tracer()

    def record(self, name: str, started_ns: int, attributes: dict[str, str | int]) -> None:
        """Record a request that ends now."""
        if self.tracer is None:
            return
        span = self.tracer.start_span(name, kind=SpanKind.SERVER, start_time=started_ns)
        span.set_attributes(attributes)
        span.end()
