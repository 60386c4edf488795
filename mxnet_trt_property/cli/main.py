"""The console script `mxnet-trt`, also `python -m mxnet_trt_property`."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Optional

from mxnet_trt_property import __version__
from mxnet_trt_property.errors import TensorRTPropertyError, message

# As a shell tells of a program that a signal ended: 128 and the signal's number.
_CLOSED_PIPE, _INTERRUPTED = 128 + 13, 128 + 2
_COMMANDS = ("demo", "explain", "plot", "profile", "bench", "calibrate", "build", "cache", "doctor")


class CommandError(TensorRTPropertyError):
    """A command cannot be used in this environment."""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs one sub-command and returns its exit status; a user's error prints one line and returns 1."""
    parser = argparse.ArgumentParser(prog="mxnet-trt", description="TensorRT for stock Apache MXNet 1.9.")
    parser.add_argument("--version", action="version", version=f"mxnet-trt-property {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in _COMMANDS:
        _add(commands, name)
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        return 2
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except TensorRTPropertyError as error:
        print(f"mxnet-trt: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Who reads has read enough, such as `head`. The interpreter must not try to write the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_PIPE
    except KeyboardInterrupt:
        print("mxnet-trt: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return status


def _add(commands: Any, name: str) -> None:
    """Adds the sub-command of a module; where that cannot be imported, one that tells it, so that `doctor` can run."""
    try:
        module = import_module(f"mxnet_trt_property.cli.{name}")
    except Exception as error:  # a broken package raises more than ImportError
        text = message(
            f"{name} cannot be used here", found=f"{type(error).__name__}: {error}", next_step="mxnet-trt doctor"
        )
        sub = commands.add_parser(name, help="cannot be used here: see mxnet-trt doctor", description=text)
        sub.add_argument("any", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
        sub.set_defaults(run=functools.partial(_refuse, text))
        return
    summary = (module.__doc__ or "").splitlines()[0]
    formatter = argparse.RawDescriptionHelpFormatter
    sub = commands.add_parser(name, help=summary, description=module.__doc__, formatter_class=formatter)
    module.add_arguments(sub)
    sub.set_defaults(run=module.run)


def _refuse(text: str, _arguments: argparse.Namespace) -> int:
    raise CommandError(text)
