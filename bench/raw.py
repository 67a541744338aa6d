"""The yardstick of gRPC itself: one open stream between two processes, and nothing on top of it.

``python -m bench.raw serve PATH`` echoes; ``python -m bench.raw drive PATH`` takes one JSON command a line
and answers with one, so that the process which measures the library has no second gRPC loop in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from typing import Any

import grpc
import grpc.aio

PING_BYTES = 200
BULK_MESSAGE_BYTES = 128 * 1024
_END = b"end"


async def _echo(_: object, context: Any) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        await context.write(message)


async def _store(_: object, context: Any) -> None:
    """Take messages until the one that says *end*, then send them back, and so on."""
    while True:
        stored = []
        while (message := await context.read()) != _END:
            if message is grpc.aio.EOF:
                return
            stored.append(message)
        for message in stored:
            await context.write(message)


async def serve(path: str) -> None:
    """Serve until standard input ends."""
    server = grpc.aio.server()
    handlers: dict[str, Any] = {
        "Echo": grpc.stream_stream_rpc_method_handler(_echo),
        "Store": grpc.stream_stream_rpc_method_handler(_store),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("raw", handlers),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


async def _ping_pong(echo: Any, times: int) -> list[float]:
    message = bytes(PING_BYTES)
    samples = []
    for _ in range(times):
        began = time.perf_counter()
        await echo.write(message)
        await echo.read()
        samples.append(time.perf_counter() - began)
    return samples


async def _bulk(store: Any, size: int) -> float:
    messages = [os.urandom(BULK_MESSAGE_BYTES) for _ in range(size // BULK_MESSAGE_BYTES)]
    began = time.perf_counter()
    for message in messages:
        await store.write(message)
    await store.write(_END)
    for _ in messages:
        await store.read()
    return time.perf_counter() - began


def _pipe(size: int) -> float:
    """Push so many bytes through a pipe, from one thread to another."""
    data = bytes(BULK_MESSAGE_BYTES)
    read, write = os.pipe()

    def push() -> None:
        for _ in range(size // BULK_MESSAGE_BYTES):
            left = memoryview(data)
            while left:
                left = left[os.write(write, left) :]
        os.close(write)

    thread = threading.Thread(target=push)
    began = time.perf_counter()
    thread.start()
    while os.read(read, BULK_MESSAGE_BYTES):
        pass
    elapsed = time.perf_counter() - began
    thread.join()
    os.close(read)
    return elapsed


def _copy(size: int) -> float:
    data = bytes(size)
    began = time.perf_counter()
    bytearray(data)
    return time.perf_counter() - began


async def drive(path: str) -> None:
    """Do what the commands on standard input say."""
    async with grpc.aio.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")]) as channel:
        echo: Any = channel.stream_stream("/raw/Echo")()
        store: Any = channel.stream_stream("/raw/Store")()
        await _ping_pong(echo, 1)
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, amount = json.loads(line)
            answer: Any
            if what == "ping":
                answer = await _ping_pong(echo, amount)
            elif what == "bulk":
                answer = await _bulk(store, amount)
            elif what == "pipe":
                answer = _pipe(amount)
            else:
                answer = _copy(amount)
            print(json.dumps(answer), flush=True)
        echo.cancel()
        store.cancel()


if __name__ == "__main__":
    asyncio.run({"serve": serve, "drive": drive}[sys.argv[1]](sys.argv[2]))
