"""Numbers for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Measures:
    """Counters and gauges of one server; they name no patient, file or client."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "softfree_requests", "Responses by route and status.", ["route", "status"], registry=self.registry
        )
        self.samples = Counter(
            "softfree_samples", "Answered samples by model and status.", ["model", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "softfree_sample_seconds",
            "Time from a request to the answer of a sample.",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refused = Counter("softfree_refused", "Requests refused by a full queue.", registry=self.registry)
        self.restarts = Counter(
            "softfree_worker_restarts", "Workers that ended during a task.", ["reason"], registry=self.registry
        )
        self.waiting = Gauge("softfree_waiting", "Samples that wait for a worker.", registry=self.registry)
        self.workers = Gauge("softfree_workers", "Workers that run.", registry=self.registry)

    def text(self) -> bytes:
        """Return all numbers in the text format of Prometheus."""
        return generate_latest(self.registry)
