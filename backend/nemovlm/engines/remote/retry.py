"""When a request is sent again, how long after, and when that ends: the whole policy.

It is that of NVIDIA's NeMo-Retriever client (`main_text_embed.py`): the wait is what the server asks for in
`Retry-After`, else full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). Whatever a
server asks for, waits grow.
"""

from collections.abc import Sequence

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential, wait_random_exponential

from nemovlm.clock import Clock
from nemovlm.engines.remote.upstream import MAX_WAIT, Upstream
from nemovlm.wire.problems import Problem
from nemovlm.wire.replies import GarbledReplyError
from nemovlm.wire.retry_after import TOO_MANY_REQUESTS

# Servers that never replied are not waited for: their addresses are probably wrong.
_MAX_ATTEMPTS_BEFORE_FIRST_REPLY = 3

_longest = wait_exponential(multiplier=1, max=MAX_WAIT)
backoff = wait_random_exponential(multiplier=1, max=MAX_WAIT)
"""Seconds after attempt n: uniform between 0 and min(30, 2 ** (n - 1)), full jitter."""


class RequestFailedError(Exception):
    """A request that got no usable reply: refused, timed out, or not connected.

    It never leaves the engines; what users see is `problem.error()`.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Deadline:
    """So many seconds, from the first attempt on: time spent in our own queue does not count."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._ends_at: float | None = None

    def start(self) -> None:
        """Let the time run, if it does not yet."""
        self._ends_at = self._ends_at or self._clock.now() + self._seconds

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._ends_at - self._clock.now() if self._ends_at else self._seconds


class RetryPolicy:
    """The attempts of one request.

    Retryable failures are repeated `max_retries` times, rate limits (429) without being counted, until no attempt can
    begin before the deadline.

    Args:
        upstreams: The servers that it may go to.
        deadline: Of the request, all attempts and waits included.
        max_retries: Attempts after the first.
    """

    def __init__(self, upstreams: Sequence[Upstream], deadline: Deadline, max_retries: int) -> None:
        self._upstreams = upstreams
        self._deadline = deadline
        self._max_retries = max_retries
        self._failures = 0
        self.last_problem: Problem | None = None
        """What went wrong in the attempt before, if there was one."""

    def attempts(self, clock: Clock) -> AsyncRetrying:
        """Return the attempts, to be iterated over. What the last one raises is raised."""
        return AsyncRetrying(
            retry=retry_if_exception(self._retryable),
            stop=self._exhausted,
            wait=_seconds_to_wait,
            sleep=clock.sleep,
            reraise=True,
        )

    def _retryable(self, error: BaseException) -> bool:
        if isinstance(error, RequestFailedError):
            self._failures += error.problem.status != TOO_MANY_REQUESTS
            self.last_problem = error.problem
            return error.problem.retryable
        self._failures += 1
        return isinstance(error, GarbledReplyError)

    def _exhausted(self, state: RetryCallState) -> bool:
        never_answered = not any(upstream.ever_answered for upstream in self._upstreams)
        cooldown = min(upstream.cooldown for upstream in self._upstreams)
        return (
            self._failures > self._max_retries
            or (never_answered and self._failures >= _MAX_ATTEMPTS_BEFORE_FIRST_REPLY * len(self._upstreams))
            or max(state.upcoming_sleep, cooldown) >= self._deadline.left
        )


def _seconds_to_wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = (error.problem.retry_after or 0.0) if isinstance(error, RequestFailedError) else 0.0
    # A server cools down for as long as it asked: if that is long enough by itself, another one may be next at once.
    return 0.0 if asked >= _longest(state) else backoff(state)
