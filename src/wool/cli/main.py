"""``wool``: the command line, from its arguments to its exit status.

It owns the words of the help. What a command does is in a module of its own, imported when it is needed.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from wool._version import __version__
from wool.cli import certs
from wool.cli.completion import with_files
from wool.cli.settings import Option, SettingError, Settings, resolve

_SAID = {
    "worker": "start workers on this host and keep them alive until SIGTERM",
    "ps": "list the workers that a discovery knows, and how they are",
    "top": "watch what workers do, on the screen of a terminal",
    "health": "say by the exit status whether workers are up, for probes",
}

_EXAMPLES = {
    "worker": """\
  wool worker --discovery local:team --size 4
  wool worker --discovery lan --host 10.0.0.5 --ca ca.pem --cert worker.pem --key worker.key""",
    "ps": """\
  wool ps --discovery local:team
  wool ps --discovery static:10.0.0.5:7000 --ca ca.pem --cert caller.pem --key caller.key --json""",
    "top": """\
  wool top --discovery local:team --interval 0.5""",
    "health": """\
  wool health --discovery local:team --least 4""",
}

_TO_BEGIN_WITH = """\
examples:
  wool worker --discovery local:team --size 4
  wool ps --discovery local:team
"""

SHELLS = ("bash", "zsh", "tcsh")

_COMPLETION = """\
Print what makes a shell complete the words of this command. Needs the extra wool[completion].

examples:
  wool completion bash > ~/.local/share/bash-completion/completions/wool
  wool completion zsh > ~/.zfunc/_wool
"""

FAILED = 1
MISUSED = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run a command; return its exit status. ``arguments`` are those after ``wool``, by default the process's."""
    _prepare_output()
    try:
        try:
            return _main(arguments, environment)
        finally:
            # Here, and not at exit, where nobody could say what is wrong.
            sys.stdout.flush()
    except BrokenPipeError:
        # Who read it has seen enough.
        _drop_output()
        return FAILED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.EFBIG):
            raise
        _drop_output()
        sys.stderr.write(f"wool: error: cannot write to standard output: {error.strerror}\n")
        return FAILED


def _prepare_output() -> None:
    """See that whatever is to be said can be written, and that somebody who has closed it need not hear it."""
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Let nothing that is still buffered fail a second time, at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _main(arguments: Sequence[str] | None, environment: Mapping[str, str]) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        parser().print_help(sys.stderr)
        return MISUSED
    flags = vars(parser().parse_args(given))
    command = str(flags.pop("command"))
    try:
        if command == "completion":
            return _print_completion(str(flags["shell"]))
        if command == "certs":  # told by flags alone
            return certs.run(flags)
        settings = resolve(command, _options(command), flags, environment)
        return _run(command)(settings)
    except SettingError as error:
        sys.stderr.write(f"wool {command}: error: {error}\n")
        return MISUSED
    except KeyboardInterrupt:
        return INTERRUPTED


def parser(*, completing: bool = False) -> argparse.ArgumentParser:
    """Return what reads the command line; ``completing``, what a shell is told of it, where a word is one of a few."""
    parser = argparse.ArgumentParser(
        prog="wool",
        description="Async functions that run on workers.",
        epilog=_TO_BEGIN_WITH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"wool {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, said in _SAID.items():
        words = f"{said[0].upper()}{said[1:]}."
        made = commands.add_parser(
            name,
            help=said,
            description=words,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _add_command(made, name, completing=completing)
    certs.add_arguments(
        commands.add_parser(
            "certs",
            help=certs.SAID,
            description=f"{certs.SAID[0].upper()}{certs.SAID[1:]}.",
            epilog=certs.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
    )
    completion = commands.add_parser(
        "completion",
        help="print what makes a shell complete this command",
        description=_COMPLETION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    completion.add_argument("shell", choices=SHELLS)
    return parser


def _print_completion(shell: str) -> int:
    try:
        complete: Callable[..., str] = import_module("shtab").complete
    except ModuleNotFoundError:
        sys.stderr.write("wool completion: error: it needs shtab: pip install 'wool[completion]'\n")
        return MISUSED
    sys.stdout.write(complete(parser(completing=True), shell=shell))
    return 0


def _options(command: str) -> Sequence[Option]:
    options: Sequence[Option] = import_module(f"wool.cli.{command}").OPTIONS
    return options


def _run(command: str) -> Callable[[Settings], int]:
    run: Callable[[Settings], int] = import_module(f"wool.cli.{command}").run
    return run


def _add_command(parser: argparse.ArgumentParser, command: str, *, completing: bool) -> None:
    parser.epilog = (
        f"examples:\n{_EXAMPLES[command]}\n\n"
        "Each can also be said in the environment (WOOL_…) or in the table\n"
        f"[{command}] of a TOML file; a flag wins over the environment, the environment over\nthe file."
    )
    with_files(
        parser.add_argument(
            "--config", metavar="FILE", default=argparse.SUPPRESS, help="TOML file with more of this [WOOL_CONFIG]"
        )
    )
    for option in _options(command):
        words = f"{option.help} [{option.variable}]".replace("%", "%%")
        if option.switch:
            parser.add_argument(
                f"--{option.name}", dest=option.name, action="store_true", default=argparse.SUPPRESS, help=words
            )
        else:
            # What reads it says itself what is wrong, wherever it stands.
            action = parser.add_argument(
                f"--{option.name}",
                dest=option.name,
                action="append" if option.repeated else "store",
                metavar=option.metavar,
                choices=(option.words or None) if completing else None,
                default=argparse.SUPPRESS,
                help=words,
            )
            with_files(action)
