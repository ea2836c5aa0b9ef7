"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one application; each has its own registry, so that several can live in a process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "nemovlm_requests", "Requests to /v1/embeddings by status.", ["status"], registry=self._registry
        )
        self.items = Counter("nemovlm_items", "Items embedded, by modality.", ["modality"], registry=self._registry)
        self.tokens = Counter("nemovlm_prompt_tokens", "Tokens of the items embedded.", registry=self._registry)
        self.queue = Gauge("nemovlm_queue_items", "Items accepted and not answered yet.", registry=self._registry)
        self.seconds = Histogram(
            "nemovlm_request_seconds",
            "Time from a request's headers to its reply.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return everything in Prometheus' text format, UTF-8."""
        return generate_latest(self._registry)
