"""A clock for tests of remote engines: nothing is waited for, time jumps instead."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from nemovlm.clock import Clock

_BACKSTOP = 60.0
"""Real seconds after which a block ends all the same. No busy machine takes so long for one reply."""

_MOMENT = 0.05
"""Real seconds that an event which is waited for has to come, before time jumps."""


class JumpingClock(Clock):
    """Waits end at once, and the clock is then as late as if they had been waited for.

    Time that jumps passes for all: whatever has a timeout by then runs into it. A server that holds a reply back
    for ever calls `lapse`.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._lock = threading.Lock()
        self._open: dict[object, tuple[float, asyncio.AbstractEventLoop, asyncio.Timeout]] = {}
        """The blocks that have a timeout, with the time at which it ends."""

    def __reduce__(self) -> tuple[Any, ...]:
        return JumpingClock, ()

    def now(self) -> float:
        return time.monotonic() + self._ahead

    async def sleep(self, seconds: float) -> None:
        until = self.now() + seconds
        await asyncio.sleep(0)  # who waits at the same time waits beside this one, not after it
        self.jump(until)
        await asyncio.sleep(0)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        until = self.now() + (seconds or 0.0)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if seconds is None else min(seconds, _MOMENT)):
                await event.wait()
                return
        self.jump(until)

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[object]:
        async with asyncio.timeout(_BACKSTOP) as block:
            key = object()
            with self._lock:
                self._open[key] = (self.now() + seconds, asyncio.get_running_loop(), block)
            try:
                yield block
            finally:
                with self._lock:
                    self._open.pop(key, None)

    def jump(self, until: float) -> None:
        """Let it be as late as `until`, if it is not yet."""
        with self._lock:
            self._ahead += max(0.0, until - self.now())
            for key, (end, loop, block) in list(self._open.items()):
                if end <= self.now():
                    del self._open[key]
                    loop.call_soon_threadsafe(_end, block, loop)

    def lapse(self) -> None:
        """Let every timeout that is open now run out."""
        with self._lock:
            until = max((end for end, _, _ in self._open.values()), default=0.0)
        self.jump(until)


def _end(block: asyncio.Timeout, loop: asyncio.AbstractEventLoop) -> None:
    with suppress(RuntimeError):  # it has ended by itself meanwhile
        block.reschedule(loop.time())
