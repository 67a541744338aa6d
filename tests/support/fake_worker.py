"""A worker process that serves nothing: ``python -m support.fake_worker``, for `ProcessLauncher(module=…)`.

``extra["mode"]`` says how it behaves. It enters by the same door as the real one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from wool.discovery.base import WorkerMetadata
from wool.worker import process
from wool.worker.channel import ChildChannel, Configure, Draining, Ready, Stop, Stopped


def serve(configure: Configure, channel: ChildChannel) -> int:
    mode = configure.extra.get("mode", "")
    if "report" in configure.extra:
        _report(configure)
    match mode:
        case "raise":
            print("last words")
            raise LookupError("no such thing")
        case "exit":
            print("half a line", end="", flush=True)
            sys.stdout.flush()
            os._exit(3)
        case "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "never ready":
            print("still importing")
            time.sleep(1000)
        case "leave a child":
            # Forked: it inherits everything, whatever is closed on exec.
            if (child := os.fork()) == 0:
                time.sleep(1000)
            print(f"child {child}")
        case "nonsense":
            os.write(channel.fileno(), b"hello\n")
            time.sleep(1000)
    uid = configure.uid or f"uid-{os.getpid()}"
    ready = Ready(
        metadata=WorkerMetadata(
            uid=uid, address=configure.address, pid=os.getpid(), version="0", tags=configure.tags, extra=configure.extra
        )
    )
    channel.send(ready)
    match mode:
        case "another uid":
            time.sleep(1000)
        case "ready twice":
            channel.send(ready)
            time.sleep(1000)
        case "hold the GIL":
            sum(range(10**13))
        case "print":
            for number in range(1000):
                print(f"{uid}:{number}:" + "x" * 50)
            sys.stdout.buffer.write(b"\xff" + "é".encode() * 600 + b"\nunfinished")
            sys.stdout.flush()
        case "close control":
            os.close(channel.fileno())
            time.sleep(1000)
        case "crash after ready":
            raise RuntimeError("too late")
    drain_seconds = 0.0
    while mode != "drain by itself":
        message = channel.receive()
        assert isinstance(message, Stop)
        drain_seconds = message.drain_seconds
        if mode != "busy" or drain_seconds == 0:
            break
    channel.send(Draining())
    if mode == "drain by itself":
        channel.receive()
    channel.send(Stopped())
    if mode == "never exit":
        time.sleep(1000)
    return 0


def _report(configure: Configure) -> None:
    Path(configure.extra["report"]).write_text(
        json.dumps(
            {
                "sys_path": sys.path,
                "cwd": os.getcwd(),
                "environ": dict(os.environ),
                "argv": sys.argv,
                "secret": configure.secret and configure.secret.hex(),
                "address": configure.address,
                "uid": configure.uid,
                "tags": sorted(configure.tags),
                "inline_bytes": configure.limits.inline_bytes,
                "session": os.getsid(0),
                "pid": os.getpid(),
                "stdin": os.readlink("/dev/fd/0") if sys.platform == "linux" else "/dev/null",
                "warnoptions": sys.warnoptions,
                "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
                "inheritable": [fd for fd in range(3, 100) if _is_inheritable(fd)],
                "safe_path": sys.flags.safe_path,
            }
        )
    )


def _is_inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(process.main(sys.argv[1:], serve=serve))
