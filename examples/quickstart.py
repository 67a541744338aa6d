import asyncio

import wool


@wool.routine
async def add(x: int, y: int) -> int:
    return x + y


async def main():
    async with wool.WorkerPool(size=4):
        print(await add(1, 2))  # 3


asyncio.run(main())
