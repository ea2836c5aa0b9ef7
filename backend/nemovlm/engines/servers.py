"""Requests to one server, or to several that share the load: limits, repetitions, and servers that are down.

Every request ends with a reply that could be read or with the last thing that went wrong; none is lost. Knows HTTP
(through httpx) and knows no embeddings. All of it runs on the private loop.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from operator import attrgetter
from typing import TypeVar

import httpx
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from nemovlm.clock import Clock
from nemovlm.errors import AuthenticationError, ConfigurationError
from nemovlm.settings import Settings
from nemovlm.wire.address import Address
from nemovlm.wire.nim import GarbledReplyError
from nemovlm.wire.problems import Problem, read_problem
from nemovlm.wire.retry import MAX_WAIT, TOO_MANY

T = TypeVar("T")

_CONNECT_SECONDS = 10.0
# Below the 60 seconds after which common proxies drop an idle connection.
_IDLE_SECONDS = 30.0
_POLL_SECONDS = 0.5  # between questions for a reply that was put off
# A server that fails so often in a row is set aside for a while; so is one that cannot be reached, at once.
_FAULTS_IN_A_ROW = 3
# One that never answered is not waited for: its address is probably wrong.
_ATTEMPTS_AT_A_STRANGER = 3
_BUSY = frozenset({429, 503})
# Seconds before attempt n: uniform between 0 and min(30, 2 ** n), full jitter.
backoff = wait_random_exponential(multiplier=1, max=MAX_WAIT)
_REQUEST_ID = re.compile(r"[\w-]{1,128}")


class RefusedError(Exception):
    """A request came to nothing. Never leaves the engines; what users see is made of its `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Deadline:
    """So many seconds, from the first attempt on: time spent in our own queue does not count."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._ends: float | None = None

    def start(self) -> None:
        """Let the time run, if it does not yet."""
        self._ends = self._ends or self._clock.now() + self._seconds

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self._ends - self._clock.now() if self._ends else self._seconds


@dataclass
class _Server:
    """One server as it has shown itself. `limit` is how many requests it is given at once.

    Additive increase, multiplicative decrease (Chiu and Jain 1989): halved when the server says that it is busy,
    once for all requests that were under way then, and growing by one each time that so many have succeeded. Faults
    too count once for all that were under way: eight connections that break at once are one fault, not eight in a row.
    """

    address: Address
    most: int
    limit: float
    busy: int = 0
    faults: int = 0
    slowed: float = 0.0
    failed: float = 0.0
    used: float = 0.0
    resting_until: float = 0.0
    answered: bool = False
    last: Problem | None = None
    clock: Clock = field(default_factory=Clock)

    @property
    def resting(self) -> float:
        """Seconds for which it is set aside."""
        return max(0.0, self.resting_until - self.clock.now())

    def rank(self, failed: str | None) -> tuple[float, ...]:
        return self.resting, self.address.host == failed, self.busy / self.limit, self.used

    def well(self) -> None:
        self.answered, self.faults = True, 0
        self.limit = min(self.most, self.limit + 1 / self.limit)

    def unwell(self, problem: Problem, sent: float, *, unreachable: bool = False) -> None:
        now, self.last = self.clock.now(), problem
        self.answered |= problem.status is not None
        if problem.status in _BUSY and sent >= self.slowed:
            self.limit, self.slowed = max(1.0, self.limit / 2), now
        if problem.retry_after is not None:
            self.resting_until = max(self.resting_until, now + problem.retry_after)
        elif problem.status != TOO_MANY and sent >= self.failed:
            self.faults, self.failed = self.faults + 1, now
            over = self.faults - (1 if unreachable else _FAULTS_IN_A_ROW)
            if over >= 0:
                self.resting_until = now + min(MAX_WAIT, 2.0**over)


class Servers:
    """The servers of one embedder and the connections to them. Opens none until something is sent.

    Raises `AuthenticationError` if a key is missing, and `ConfigurationError` for certificates that cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = settings.clock
        most = settings.max_concurrency
        self._servers = [_Server(address, most, most, clock=self._clock) for address in settings.addresses]
        for address in settings.addresses:
            if address.hosted and not settings.key_for(address):
                raise AuthenticationError(f"{address.host} wants a key: set NVIDIA_API_KEY, or pass api_key")
            try:
                _ = httpx.Request("POST", address.embeddings, headers=self._headers(address)).url.host
            except (httpx.InvalidURL, UnicodeError) as error:  # of a host, or of a header
                raise ConfigurationError(f"nothing can be sent to {address.host} ({reason(error)})") from error
        self._changed = asyncio.Event()
        rate = settings.requests_per_minute
        self._rate = AsyncLimiter(1, 60 / rate) if rate else None  # one at a time: spread evenly, never in a burst
        given = settings.http_client
        self._client_is_ours = not isinstance(given, httpx.AsyncClient)
        client = given() if callable(given) else given or _client(settings)
        if not isinstance(client, httpx.AsyncClient):
            raise ConfigurationError("http_client must be an httpx.AsyncClient, or a function that makes one")
        self._client = client

    async def close(self) -> None:
        """Close all connections, unless the client is the user's own."""
        if self._client_is_ours:
            await self._client.aclose()

    async def get(self, route: str, address: Address) -> httpx.Response:
        """Return the reply to `GET base + route`, once, whatever it is. Raises `httpx.HTTPError`."""
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

        Passing failures are repeated: `retries` times, rate limits more often, until `deadline`. Raises
        `RefusedError`, and what `read` raises.
        """
        failures = 0
        earlier: Problem | None = None

        def passing(error: BaseException) -> bool:
            nonlocal failures, earlier
            if isinstance(error, RefusedError):
                failures += error.problem.status != TOO_MANY
                earlier = error.problem
                return error.problem.passing
            failures += 1
            return isinstance(error, GarbledReplyError)

        def enough(state: RetryCallState) -> bool:
            stranger = not any(server.answered for server in self._servers)
            return (
                failures > retries
                or (stranger and failures >= _ATTEMPTS_AT_A_STRANGER * len(self._servers))
                or max(state.upcoming_sleep, self._rest()) >= deadline.left
            )

        async for attempt in AsyncRetrying(
            retry=retry_if_exception(passing), stop=enough, wait=_wait, reraise=True, sleep=self._clock.sleep
        ):
            with attempt:
                return await self._attempt(body, read, deadline, earlier, route, only)
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
        async with self._turn(deadline, earlier.server if earlier else None, only) as server:
            if self._rate:
                await self._rate.acquire()
            deadline.start()
            if deadline.left <= 0:  # it ran out in our own queue, between two attempts: not the server's fault
                raise RefusedError(earlier or Problem("no time was left for another attempt", server.address.host))
            sent = self._clock.now()
            try:
                async with self._clock.timeout(min(self._settings.timeout, deadline.left)):
                    reply = await self._exchange(server.address, route(server.address), body())
            except TimeoutError:
                if earlier and deadline.left <= 0:  # cut short: what went wrong before says more
                    raise RefusedError(earlier) from None
                problem = Problem(f"no reply within {self._clock.now() - sent:.1f} seconds", server.address.host)
                server.unwell(problem, sent)
                raise RefusedError(problem) from None
            except httpx.RequestError as error:
                problem = Problem(reason(error), server.address.host)
                server.unwell(problem, sent, unreachable=isinstance(error, httpx.ConnectError | httpx.ConnectTimeout))
                raise RefusedError(problem) from error
            if reply.status_code == httpx.codes.OK:
                result = read(reply.content)
                server.well()
                return result
            secrets = self._settings.secrets_for(server.address)
            problem = read_problem(server.address.host, reply.status_code, reply.headers, reply.content, secrets)
            if problem.passing:
                server.unwell(problem, sent)
            else:
                server.well()
            raise RefusedError(problem)

    async def _exchange(self, address: Address, url: str, body: bytes) -> httpx.Response:
        headers = self._headers(address)
        reply = await self._client.post(
            url, content=body, headers=[*headers.items(), ("Content-Type", "application/json")]
        )
        while reply.status_code == httpx.codes.ACCEPTED:
            # Put off (NVCF): the same key asks for it until it is there.
            name = reply.headers.get("nvcf-reqid", "")
            if not _REQUEST_ID.fullmatch(name):
                problem = Problem("the reply was put off, but not under which NVCF-REQID", address.host, 202)
                raise RefusedError(problem)
            reply = await self._client.get(address.status(name), headers=headers)
            if reply.status_code == httpx.codes.ACCEPTED:
                await self._clock.sleep(_POLL_SECONDS)
        return reply

    @asynccontextmanager
    async def _turn(self, deadline: Deadline, failed: str | None, only: Address | None) -> AsyncIterator[_Server]:
        """Wait until a server has room and is not set aside, and take up room there: the least busy one first.

        One that just `failed` this request comes after all others, and of those equally busy the one that was given
        something longest ago is taken.

        Raises `RefusedError`, with what went wrong last, if all servers with room are set aside for too long.
        """
        while True:
            able = [server for server in self._servers if only in {None, server.address}]
            free = [server for server in able if server.busy < int(server.limit)]
            server = min(free, key=lambda server: server.rank(failed), default=None)
            if server and not server.resting:
                break
            if server and server.last and server.resting >= deadline.left:
                raise RefusedError(server.last)
            await self._clock.wait(self._changed, server.resting if server else None)
        server.busy, server.used = server.busy + 1, self._clock.now()
        try:
            yield server
        finally:
            server.busy -= 1
            self._changed.set()  # those who wait look again, in the order in which they came
            self._changed = asyncio.Event()

    def _rest(self) -> float:
        return min(server.resting for server in self._servers)

    def _headers(self, address: Address) -> httpx.Headers:
        key = self._settings.key_for(address)
        headers = httpx.Headers({"Accept": "application/json"})
        if key:
            headers["Authorization"] = f"Bearer {key}"
        headers.update(self._settings.headers)
        return headers


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = isinstance(error, RefusedError) and error.problem.retry_after is not None
    return 0.0 if asked else backoff(state)  # the server itself is set aside for as long as it asked


def _client(settings: Settings) -> httpx.AsyncClient:
    certificates = _certificates(settings)
    try:
        return httpx.AsyncClient(
            timeout=httpx.Timeout(settings.timeout, connect=min(_CONNECT_SECONDS, settings.timeout), pool=None),
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=settings.max_concurrency * len(settings.addresses),
                keepalive_expiry=_IDLE_SECONDS,
            ),
            verify=certificates,
            proxy=settings.proxy,
            headers={"User-Agent": f"nemovlm/{version('nemovlm')}"},
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:  # it may hold a password, so it is not shown
        raise ConfigurationError(
            "the proxy (the setting, or HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) cannot be used: it must be an http:// or "
            "https:// address, or a socks5:// one where httpx[socks] is installed"
        ) from error


def _certificates(settings: Settings) -> ssl.SSLContext | bool:
    encrypted = any(address.base.startswith("https:") for address in settings.addresses)
    if settings.verify is True and not encrypted and not settings.cert:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and nobody is asked; the real one takes 50 ms
    try:
        if isinstance(settings.verify, bool):
            context = httpx.create_ssl_context(verify=settings.verify)
        else:
            context = ssl.create_default_context(cafile=settings.verify)
        if settings.cert:
            context.load_cert_chain(*settings.cert if isinstance(settings.cert, tuple) else (settings.cert,))
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"verify={settings.verify} or cert={settings.cert} cannot be used: {error.strerror or error}"
        ) from error
    return context


def reason(error: Exception) -> str:
    """Say what failed, without addresses that may hold secrets."""
    return f"{type(error).__name__}{f' ({text})' if (text := str(error)) else ''}"
