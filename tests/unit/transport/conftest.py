"""gRPC for the tests of this directory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc.aio
import pytest

from wool.limits import Limits
from wool.transport.base import ConnectFailed
from wool.transport.grpc import GrpcTransport


@pytest.fixture(autouse=True, scope="session")
def grpc_is_running() -> Iterator[None]:
    """gRPC's machinery stays for the life of a process that has used it, so it is no leak of a test."""

    async def start() -> None:
        transport = GrpcTransport(Limits())
        with pytest.raises(ConnectFailed):
            await transport.connect("unix:/nobody")
        grpc.aio.init_grpc_aio()
        await transport.close()

    asyncio.run(start())
    yield
    grpc.aio.shutdown_grpc_aio()
