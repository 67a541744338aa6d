"""``wool``: the command line, from its arguments to its exit status.

It owns the words of the help. What a command does is in a module of its own, imported when it is needed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from wool._version import __version__
from wool.cli import certs
from wool.cli.settings import Option, SettingError, Settings, resolve

_SAID = {
    "worker": "start workers on this host and keep them alive until SIGTERM",
    "ps": "list the workers that a discovery knows, and how they are",
    "top": "watch what workers do, on the screen of a terminal",
    "health": "say by the exit status whether workers are up, for probes",
}

MISUSED = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run a command; return its exit status. ``arguments`` are those after ``wool``, by default the process's."""
    flags = vars(parser().parse_args(arguments))
    command = str(flags.pop("command"))
    try:
        if command == "certs":  # told by flags alone
            return certs.run(flags)
        settings = resolve(command, _options(command), flags, environment)
        return _run(command)(settings)
    except SettingError as error:
        sys.stderr.write(f"wool {command}: error: {error}\n")
        return MISUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Who read it has seen enough. What is still buffered must not fail a second time, at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(
        prog="wool", description="Async functions that run on workers.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"wool {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, said in _SAID.items():
        words = f"{said[0].upper()}{said[1:]}."
        _add_command(commands.add_parser(name, help=said, description=words, allow_abbrev=False), name)
    certs.add_arguments(
        commands.add_parser(
            "certs", help=certs.SAID, description=f"{certs.SAID[0].upper()}{certs.SAID[1:]}.", allow_abbrev=False
        )
    )
    return parser


def _options(command: str) -> Sequence[Option]:
    options: Sequence[Option] = import_module(f"wool.cli.{command}").OPTIONS
    return options


def _run(command: str) -> Callable[[Settings], int]:
    run: Callable[[Settings], int] = import_module(f"wool.cli.{command}").run
    return run


def _add_command(parser: argparse.ArgumentParser, command: str) -> None:
    parser.epilog = (
        "Each can also be said in the environment (WOOL_…) or in the table "
        f"[{command}] of a TOML file; a flag wins over the environment, the environment over the file."
    )
    parser.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS, help="TOML file with more of this [WOOL_CONFIG]"
    )
    for option in _options(command):
        words = f"{option.help} [{option.variable}]".replace("%", "%%")
        if option.switch:
            parser.add_argument(
                f"--{option.name}", dest=option.name, action="store_true", default=argparse.SUPPRESS, help=words
            )
        else:
            parser.add_argument(
                f"--{option.name}",
                dest=option.name,
                action="append" if option.repeated else "store",
                metavar=option.metavar,
                default=argparse.SUPPRESS,
                help=words,
            )
