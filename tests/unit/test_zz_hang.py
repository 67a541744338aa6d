import asyncio, pytest
@pytest.mark.timeout(1)
async def test_hang():
    async def immortal():
        while True:
            try: await asyncio.sleep(1)
            except asyncio.CancelledError: pass
    t = asyncio.create_task(immortal())
    await asyncio.sleep(30)
