# SPDX-License-Identifier: MIT
"""Prometheus metrics of one worker."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5, 30, 180)


class Metrics:
    """Counters and timings; a registry of its own, so that several workers fit into one process of tests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Counter(
            "outlayer_worker_jobs", "Jobs by kind and end", ["kind", "end"], registry=self.registry
        )
        self.held = Gauge(
            "outlayer_worker_jobs_held", "Jobs claimed and not yet final", registry=self.registry
        )
        self.run_seconds = Histogram(
            "outlayer_worker_run_seconds", "Time in an executor", buckets=_FAST, registry=self.registry
        )
        self.quote_seconds = Histogram(
            "outlayer_worker_quote_seconds", "Time for one quote", buckets=_FAST, registry=self.registry
        )
        self.instructions = Counter(
            "outlayer_worker_instructions", "Instructions run", registry=self.registry
        )
