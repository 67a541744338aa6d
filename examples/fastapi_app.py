"""A web application whose requests run on workers: the pool lives as long as the application.

    pip install fastapi uvicorn
    uvicorn --app-dir examples fastapi_app:app
    curl 'http://127.0.0.1:8000/primes?below=100'

A request that no worker has begun may be made again, and is told so.
"""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, HTTPException, Query, Request

import wool


@wool.routine
async def primes(below: int) -> int:
    sieve = bytearray([1]) * below
    sieve[:2] = b"\0\0"[:below]
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, below, number)))
    return sum(sieve)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with wool.WorkerPool(size=2) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/primes")
async def count(request: Request, below: int = Query(ge=0, le=50_000_000)) -> dict[str, int]:
    # The server handles requests in tasks that were not started inside the pool's block.
    with request.app.state.pool.use(), wool.RuntimeContext(dispatch_timeout=2.0):
        try:
            return {"below": below, "primes": await primes(below)}
        except wool.NoWorkersAvailable as error:
            # The body has not begun, and will not: the client may try again.
            raise HTTPException(503, str(error)) from error
        except wool.WorkerLost as error:
            # It may have run. Counting twice does no harm, so here the client may try again too.
            raise HTTPException(502, str(error)) from error
