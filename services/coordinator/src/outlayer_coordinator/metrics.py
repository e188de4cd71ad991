# SPDX-License-Identifier: MIT
"""Prometheus metrics of this process."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

CALLS_ACCEPTED = Counter("outlayer_calls_accepted_total", "Calls that were reserved and queued")
REQUESTS = Counter("outlayer_http_requests_total", "Answered HTTP requests", ["route", "status"])
REQUEST_SECONDS = Histogram(
    "outlayer_http_request_seconds",
    "Time to the answer",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 300),
)
JOBS_CLAIMED = Counter("outlayer_jobs_claimed_total", "Jobs given to workers", ["kind"])
JOBS_FINISHED = Counter("outlayer_jobs_finished_total", "Jobs settled", ["kind", "state"])
JOBS_REQUEUED = Counter("outlayer_jobs_requeued_total", "Jobs whose lease ended")
COMPLETIONS_REFUSED = Counter("outlayer_completions_refused_total", "Completions not taken", ["reason"])
BATCH_RECORDS = Histogram(
    "outlayer_batch_records", "Records under one quote", buckets=(1, 2, 4, 8, 16, 32, 64)
)
QUEUED = Gauge("outlayer_jobs_queued", "Jobs that wait for a worker")
BLOCK_HEIGHT = Gauge("outlayer_ingest_block_height", "Last block whose events are stored")
EVENTS = Counter("outlayer_ingest_requests_total", "Execution requests taken from the chain")
EVENTS_UNREADABLE = Counter("outlayer_ingest_unreadable_total", "Events that could not be parsed")
