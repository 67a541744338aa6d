"""The handlers of accepted streams: started, watched and ended alike by every transport.

A handler is a stranger's coroutine. What it raises must end its own stream and nothing else, and a
listener that closes must not leave it running, nor wait for it without bound. Owns one task per accepted
stream, from accept to end. Never reads or writes a stream.
"""

from __future__ import annotations

import asyncio
import logging

from wool.transport.base import Stream, StreamHandler, StreamLost

_logger = logging.getLogger(__name__)


class Handlers:
    """Runs one handler per accepted stream and keeps a registry of those that have not ended.

    gRPC's own shutdown does not wait for handlers (#37239), and may hang (#43421, #40989).
    """

    def __init__(self, handler: StreamHandler, *, name: str, close_seconds: float) -> None:
        self._handler = handler
        self._name = name
        self._close_seconds = close_seconds
        self._closing = False
        self._number = 0
        # A dict, for its order: nothing may depend on how a set happens to iterate.
        self._open: dict[asyncio.Task[None], Stream] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}{' closing' if self._closing else ''} open={len(self._open)}>"

    @property
    def open(self) -> int:
        """How many handlers have not ended."""
        return len(self._open)

    @property
    def closing(self) -> bool:
        """Whether no further stream may be accepted."""
        return self._closing

    def start(self, stream: Stream) -> None:
        """Serve ``stream`` in a task of its own; it is closed when the handler ends."""
        assert not self._closing, "a closed listener accepted a stream"
        self._number += 1
        task = asyncio.create_task(self._serve(stream), name=f"{self._name}: stream {self._number}")
        self._open[task] = stream
        task.add_done_callback(self._ended)

    async def close(self, reason: str) -> None:
        """Accept no more, abort every open stream, and wait for the handlers.

        Bounded: whoever has not ended after ``close_seconds`` is cancelled, and given as long again. One
        that survives even that is named in the log.
        """
        self._closing = True
        for stream in list(self._open.values()):
            stream.abort(reason)
        await self._settle()
        for task in list(self._open):
            task.cancel(reason)
        await self._settle()
        for task in self._open:
            _logger.error("%s does not end, although its stream is gone and it was cancelled", task.get_name())

    async def _settle(self) -> None:
        if self._open:
            await asyncio.wait(self._open, timeout=self._close_seconds)

    async def _serve(self, stream: Stream) -> None:
        try:
            await self._handler(stream)
        except StreamLost as error:
            _logger.debug("a handler let the end of its stream pass: %s", error)
        except asyncio.CancelledError:
            stream.abort("its handler was cancelled")
            raise
        except Exception:
            _logger.exception("the handler of %r failed", stream)
            stream.abort("its handler failed")
        finally:
            await stream.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("%s could not be closed", task.get_name(), exc_info=error)
