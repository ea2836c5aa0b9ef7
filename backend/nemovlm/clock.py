"""Time as the remote engines see it. A test hands in a clock of its own, and waits for nothing."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """What time it is, and how to wait. Without state, so one serves any number of loops, and all are equal."""

    def now(self) -> float:
        """Return seconds since some fixed moment; they never run backwards."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait for `event`, and no longer than so many seconds; None means without end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Return a block that ends in `TimeoutError` after so many seconds."""
        return asyncio.timeout(seconds)
