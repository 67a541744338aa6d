"""The other end of a stream: reads whatever comes, in a process of its own.

``python -m support.sink accepts|connects ADDRESS``; it is killed, never ended.
"""

from __future__ import annotations

import asyncio
import sys

from wool.limits import MIB, Limits
from wool.transport.base import ConnectFailed, Stream
from wool.transport.grpc import GrpcTransport

LIMITS = Limits(unix_lookahead_bytes=MIB)
"""Lets more be under way than a Unix socket holds, so that a ping has no room there."""


async def read_for_ever(stream: Stream) -> None:
    while True:
        await stream.read()


async def main(role: str, address: str) -> None:
    transport = GrpcTransport(LIMITS)
    if role == "accepts":
        listener = await transport.listen(address, read_for_ever)
        await asyncio.Event().wait()
        await listener.close()
    while True:
        try:
            stream = await transport.connect(address)
        except ConnectFailed:
            await asyncio.sleep(0.01)
        else:
            await read_for_ever(stream)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
