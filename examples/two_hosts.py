"""Fan out over workers that others have started, on this host and on others.

On each host that shall work (see docs/worker.md for the certificates that other hosts need):

    wool worker --discovery lan --host ADDRESS --ca ca.pem --cert HOST.pem --key HOST.key

and then, anywhere in the network:

    python examples/two_hosts.py lan --ca ca.pem --cert caller.pem --key caller.key

On one machine, `local:NAME` in the place of `lan` does without certificates.
"""

import argparse
import asyncio
import os
import platform
from collections import Counter

import wool


@wool.routine
async def where() -> str:
    await asyncio.sleep(0.01)
    return f"{platform.node()}, process {os.getpid()}"


async def main(discovery: wool.DiscoveryLike, credentials: wool.CredentialFiles | None, calls: int) -> None:
    async with wool.WorkerPool(discovery=discovery, credentials=credentials):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(where()) for _ in range(calls)]
    for place, count in sorted(Counter(task.result() for task in tasks).items()):
        print(f"{count} calls on {place}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("discovery", help="lan, or local:NAME")
    parser.add_argument("--calls", type=int, default=20)
    for name in ("--ca", "--cert", "--key"):
        parser.add_argument(name)
    given = parser.parse_args()
    kind, _, name = given.discovery.partition(":")
    asyncio.run(
        main(
            wool.LanDiscovery() if kind == "lan" else wool.LocalDiscovery(name),
            wool.CredentialFiles(ca_path=given.ca, cert_path=given.cert, key_path=given.key) if given.ca else None,
            given.calls,
        )
    )
