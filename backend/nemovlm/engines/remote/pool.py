"""Requests to one server, or to several that share the load: limits, attempts, and servers that are down.

Every request ends with a reply that could be read or with the last thing that went wrong; none is lost. Knows HTTP
(through httpx) and knows no embeddings. All of it runs on the private loop.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import TypeVar

import httpx
from aiolimiter import AsyncLimiter

from nemovlm.engines.remote.client import describe_failure, make_client
from nemovlm.engines.remote.retry import Deadline, RequestFailedError, RetryPolicy
from nemovlm.engines.remote.upstream import MAX_WAIT, Upstream
from nemovlm.errors import AuthenticationError, ConfigurationError, ProtocolError
from nemovlm.settings import Settings
from nemovlm.wire.address import Address
from nemovlm.wire.problems import Problem, read_problem
from nemovlm.wire.retry_after import retry_after

T = TypeVar("T")

_FIRST_PAUSE = 0.5  # seconds between two questions for a reply that was put off; each is twice as long as the last
_REQUEST_ID = re.compile(r"[\w-]{1,128}")


class UpstreamPool:
    """The servers of one engine and the connections to them. Opens none until something is sent.

    Raises:
        AuthenticationError: A key is missing.
        ConfigurationError: Certificates, headers or the client cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = settings.clock
        most = settings.max_concurrency
        self._upstreams = [Upstream(address, most, most, clock=self._clock) for address in settings.addresses]
        for address in settings.addresses:
            if address.hosted and not settings.key_for(address):
                raise AuthenticationError(f"{address.host} wants a key: set NVIDIA_API_KEY, or pass api_key")
            try:
                _ = httpx.Request("POST", address.embeddings, headers=self._headers(address)).url.host
            except (httpx.InvalidURL, UnicodeError) as error:  # of a host, or of a header
                raise ConfigurationError(
                    f"nothing can be sent to {address.host} ({describe_failure(error)})"
                ) from error
        self._changed = asyncio.Event()
        rate = settings.requests_per_minute
        self._rate = AsyncLimiter(1, 60 / rate) if rate else None  # one at a time: spread evenly, never in a burst
        self._client = make_client(settings)

    @property
    def serving(self) -> set[Address]:
        """The servers that do their work, or have done it."""
        return {upstream.address for upstream in self._upstreams if upstream.ever_served}

    async def close(self) -> None:
        """Close all connections, unless the client is the user's own."""
        if self._client is not self._settings.http_client:
            await self._client.aclose()

    async def get(self, route: str, address: Address) -> httpx.Response:
        """Return the reply to `GET base + route`, once, whatever it is.

        Raises:
            httpx.HTTPError: There is none.
        """
        return await self._client.get(f"{address.base}{route}", headers=self._headers(address))

    async def post(
        self,
        body: Callable[[], bytes],
        read: Callable[[bytes], T],
        *,
        deadline: Deadline,
        retries: int,
        route: Callable[[Address], str] = attrgetter("embeddings"),
        only: Address | None = None,
    ) -> T:
        """Send `body()` to the `route` of a server, or of the `only` one, and return what `read` makes of the reply.

        Raises:
            RequestFailedError: No attempt that `RetryPolicy` allows got a usable reply.
            ProtocolError: `read` could not make anything of the reply, or whatever else it raises.
        """
        policy = RetryPolicy(self._upstreams, deadline, retries)
        async for attempt in policy.attempts(self._clock):
            with attempt:
                return await self._attempt(body, read, deadline, policy.last_problem, route, only)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _attempt(
        self,
        body: Callable[[], bytes],
        read: Callable[[bytes], T],
        deadline: Deadline,
        earlier: Problem | None,
        route: Callable[[Address], str],
        only: Address | None,
    ) -> T:
        async with self._acquired(deadline, earlier.server if earlier else None, only) as upstream:
            host = upstream.address.host
            if self._rate:
                await self._rate.acquire()
            deadline.start()
            if deadline.left <= 0:  # it ran out in our own queue, between two attempts: not the server's fault
                raise RequestFailedError(earlier or Problem("no time was left for another attempt", host))
            sent_at = self._clock.now()
            try:
                async with self._clock.timeout(min(self._settings.timeout, deadline.left)):
                    reply = await self._exchange(upstream.address, route(upstream.address), body())
            except TimeoutError:
                if earlier and deadline.left <= 0:  # cut short: what went wrong before says more
                    raise RequestFailedError(earlier) from None
                problem = Problem(f"no reply within {self._clock.now() - sent_at:.1f} seconds", host)
                upstream.record_failure(problem, sent_at)
                raise RequestFailedError(problem) from None
            except httpx.RequestError as error:
                problem = Problem(describe_failure(error), host)
                unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                upstream.record_failure(problem, sent_at, unreachable=unreachable)
                raise RequestFailedError(problem) from error
            try:
                result = self._read(reply, upstream.address, read)
            except RequestFailedError as failed:
                if failed.problem.retryable:
                    upstream.record_failure(failed.problem, sent_at)
                else:
                    upstream.record_success()
                raise
            upstream.record_success()
            return result

    def _read(self, reply: httpx.Response, address: Address, read: Callable[[bytes], T]) -> T:
        unread: ProtocolError | None = None
        if reply.is_success and reply.status_code != httpx.codes.NO_CONTENT:
            try:
                return read(reply.content)
            except ProtocolError as error:
                unread = error
        secrets = self._settings.secrets_for(address)
        problem = read_problem(address.host, reply.status_code, reply.headers, reply.content, secrets)
        if unread and problem.status == reply.status_code:  # it is no failure by its status, nor by what is in it
            raise type(unread)(f"{unread}: {problem.message}" if problem.message else str(unread))
        raise RequestFailedError(problem)

    async def _exchange(self, address: Address, url: str, body: bytes) -> httpx.Response:
        headers = self._headers(address)
        reply = await self._client.post(
            url, content=body, headers=[*headers.items(), ("Content-Type", "application/json")]
        )
        pause = _FIRST_PAUSE
        while reply.status_code == httpx.codes.ACCEPTED:
            # Put off (NVCF): the same key asks for it until it is there.
            name = reply.headers.get("nvcf-reqid", "")
            if not _REQUEST_ID.fullmatch(name):
                problem = Problem("the reply was put off, but not under which NVCF-REQID", address.host, 202)
                raise RequestFailedError(problem)
            reply = await self._client.get(address.status(name), headers=headers)
            if reply.status_code == httpx.codes.ACCEPTED:
                await self._clock.sleep(max(pause, retry_after(reply.headers) or 0.0))
                pause = min(2 * pause, MAX_WAIT)
        return reply

    @asynccontextmanager
    async def _acquired(
        self, deadline: Deadline, failed_host: str | None, only: Address | None
    ) -> AsyncIterator[Upstream]:
        """Wait until a server has room and no cooldown, and take up room there: the least busy one first.

        The one that just failed this request comes after all others, and of those equally busy the one that was given
        something longest ago is taken.

        Raises:
            RequestFailedError: With what went wrong last, if all servers with room cool down for too long.
        """
        while True:
            able = [upstream for upstream in self._upstreams if only in {None, upstream.address}]
            free = [upstream for upstream in able if upstream.in_flight < int(upstream.limit)]
            upstream = min(free, key=lambda upstream: upstream.sort_key(failed_host), default=None)
            if upstream and not upstream.cooldown:
                break
            if upstream and upstream.last_problem and upstream.cooldown >= deadline.left:
                raise RequestFailedError(upstream.last_problem)
            await self._clock.wait(self._changed, upstream.cooldown if upstream else None)
        upstream.in_flight, upstream.last_used_at = upstream.in_flight + 1, self._clock.now()
        try:
            yield upstream
        finally:
            upstream.in_flight -= 1
            self._changed.set()  # those who wait look again, in the order in which they came
            self._changed = asyncio.Event()

    def _headers(self, address: Address) -> httpx.Headers:
        key = self._settings.key_for(address)
        headers = httpx.Headers({"Accept": "application/json"})
        if key:
            headers["Authorization"] = f"Bearer {key}"
        headers.update(self._settings.headers)
        return headers
