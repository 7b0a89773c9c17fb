# SPDX-License-Identifier: Apache-2.0
"""What `/v1/metrics` tells Prometheus."""

from __future__ import annotations

import prometheus_client as prometheus

from alpamayo_rt.serving.order import Outcome
from alpamayo_rt.serving.reply import Watch
from alpamayo_rt.serving.worker import State, Worker

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self, worker: Worker):
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "alpamayo_requests", "Answered requests", ("route", "status"), registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            "alpamayo_request_seconds", "From headers to answer", ("route",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.stages = prometheus.Histogram(
            "alpamayo_stage_seconds", "By stage of server and engine", ("stage",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.tokens = prometheus.Counter("alpamayo_generated_tokens", "Sampled tokens", registry=self.registry)
        self.taken = prometheus.Counter(
            "alpamayo_requests_taken", "Requests that got a place in the queue", registry=self.registry
        )
        self.finished = prometheus.Counter(
            "alpamayo_requests_finished", "Requests that gave their place back", registry=self.registry
        )
        for name, text, value in (
            ("alpamayo_queue_waiting", "Requests that wait", lambda: float(worker.waiting)),
            ("alpamayo_queue_taken", "Requests that wait or run", lambda: float(worker.taken)),
            ("alpamayo_ready", "1 if requests are taken", lambda: float(worker.state is State.READY)),
        ):
            prometheus.Gauge(name, text, registry=self.registry).set_function(value)
        prometheus.ProcessCollector(registry=self.registry)

    def note(self, outcome: Outcome, watch: Watch) -> None:
        """Book a finished request."""
        for stage, ms in watch.milliseconds.items():
            self.stages.labels(f"server_{stage}").observe(ms / 1e3)
        for result in (outcome.drive, outcome.answer):
            if result is not None:
                self.tokens.inc(sum(map(len, result.generated_token_ids)))
                for stage, ms in result.milliseconds.items():
                    self.stages.labels(stage).observe(ms / 1e3)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return prometheus.generate_latest(self.registry)
