"""One server as it has shown itself: its limit of concurrency, and its cooldown. Pure state, no sockets."""

from dataclasses import dataclass, field

from nemovlm.clock import Clock
from nemovlm.wire.address import Address
from nemovlm.wire.problems import Problem
from nemovlm.wire.retry_after import TOO_MANY_REQUESTS

MAX_WAIT = 30.0
"""Seconds: the longest wait and the longest cooldown, unless the server asks for more."""

_BUSY_STATUSES = frozenset({TOO_MANY_REQUESTS, 503})
# A server that fails so often in a row gets a cooldown; so does one that cannot be reached, at once.
_FAILURES_BEFORE_COOLDOWN = 3


@dataclass
class Upstream:
    """The state of one server. Moments are seconds of `clock`.

    Its limit of requests at once follows additive increase, multiplicative decrease (Chiu and Jain 1989): it is halved
    when the server says that it is busy, once for all requests that were under way then, and grows by one each time
    that so many have succeeded. Failures too count once for all that were under way: eight connections that break at
    once are one failure, not eight in a row.
    """

    address: Address
    max_concurrency: int
    """The most requests at once that `limit` grows to."""
    limit: float
    """How many requests it is given at once."""
    in_flight: int = 0
    """Requests under way."""
    failures_in_a_row: int = 0
    last_backoff_at: float = 0.0
    """When `limit` was halved."""
    last_failure_at: float = 0.0
    last_used_at: float = 0.0
    cooldown_until: float = 0.0
    ever_answered: bool = False
    """Whether it has ever replied, with whatever status."""
    ever_served: bool = False
    """Whether a reply was usable, or blamed the request."""
    last_problem: Problem | None = None
    clock: Clock = field(default_factory=Clock)

    @property
    def cooldown(self) -> float:
        """Seconds for which it still gets no requests."""
        return max(0.0, self.cooldown_until - self.clock.now())

    def sort_key(self, failed_host: str | None) -> tuple[float, ...]:
        """Return what orders servers, the best first: one that just failed the same request comes late."""
        return self.cooldown, self.address.host == failed_host, self.in_flight / self.limit, self.last_used_at

    def record_success(self) -> None:
        """Take note of a usable reply, or of one that blames the request."""
        self.ever_answered, self.ever_served, self.failures_in_a_row = True, True, 0
        self.limit = min(self.max_concurrency, self.limit + 1 / self.limit)

    def record_failure(self, problem: Problem, sent_at: float, *, unreachable: bool = False) -> None:
        """Take note of a retryable failure of a request that was sent at `sent_at`."""
        now, self.last_problem = self.clock.now(), problem
        self.ever_answered |= problem.status is not None
        if problem.status in _BUSY_STATUSES and sent_at >= self.last_backoff_at:
            self.limit, self.last_backoff_at = max(1.0, self.limit / 2), now
        if problem.retry_after:
            self.cooldown_until = max(self.cooldown_until, now + problem.retry_after)
        if problem.status != TOO_MANY_REQUESTS and sent_at >= self.last_failure_at:
            self.failures_in_a_row, self.last_failure_at = self.failures_in_a_row + 1, now
            over = self.failures_in_a_row - (1 if unreachable else _FAILURES_BEFORE_COOLDOWN)
            if over >= 0:
                self.cooldown_until = max(self.cooldown_until, now + min(MAX_WAIT, 2.0 ** min(over, 9)))
