"""The pulse of a stream on a Unix socket: a second connection between its two ends that carries nothing.

gRPC finds a frozen peer by a ping that is not answered. On a socket that is full of bulk data the ping is
never written, and a Unix socket has no time-out of its own, as TCP has: such a peer would be waited for until
it moves again. A connection that is always empty always has room for a ping. When it breaks, the stream looks
whether anything still arrives, and breaks too if not. Owns the connecting end's second channel and the name by
which the accepting end knows that two connections belong together.
"""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections.abc import Awaitable, Callable

from wool.transport.grpc_environment import environment_for_import
from wool.transport.grpc_options import Options

with environment_for_import():
    import grpc
    import grpc.aio

METHOD = "/wool.protocol.Worker/Pulse"
STREAM_KEY = "wool-stream"
"""Initial metadata of both calls: which stream it is, in words that nobody else can guess."""

_NAME_BYTES = 16

_ENDED = (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED)


def new_name() -> str:
    """Return a name for a stream: whoever knows it may be its pulse."""
    return secrets.token_hex(_NAME_BYTES)


def name_of(context: grpc.aio.ServicerContext[bytes, bytes]) -> str | None:
    """Return which stream an accepted call is, or is the pulse of, if it says so."""
    for key, value in context.invocation_metadata() or ():
        if key == STREAM_KEY and isinstance(value, str):
            return value
    return None


async def _watch(
    call: grpc.aio.StreamStreamCall[bytes, bytes], stopped: weakref.WeakMethod[Callable[[], None]]
) -> None:
    if await call.code() not in _ENDED and (tell := stopped()) is not None:
        tell()


class Pulse:
    """The connecting end of one pulse."""

    def __init__(self, channel: grpc.aio.Channel, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        self._channel = channel
        self._call = call
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        target: str,
        options: Options,
        name: str,
        opened: Callable[[grpc.aio.StreamStreamCall[bytes, bytes]], Awaitable[None]],
    ) -> Pulse:
        """Connect a pulse for the stream ``name``, which comes next; ``opened`` waits until it is accepted."""
        channel = grpc.aio.insecure_channel(target, options=options)
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        pulse = cls(channel, method(metadata=((STREAM_KEY, name),), wait_for_ready=False))
        try:
            await opened(pulse._call)
        except BaseException:
            await pulse.close()
            raise
        return pulse

    def watch(self, stopped: weakref.WeakMethod[Callable[[], None]]) -> None:
        """Have ``stopped`` called if it breaks; not if either end ends it, as they do after the stream."""
        self._watching = asyncio.create_task(_watch(self._call, stopped), name="wool pulse")

    async def close(self) -> None:
        """End it and free its connection. Awaits nothing that could take long."""
        self._call.cancel()
        if self._watching is not None:
            await asyncio.wait([self._watching])
        await self._channel.close()
