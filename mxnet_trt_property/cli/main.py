"""The console script `mxnet-trt`, also `python -m mxnet_trt_property`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Optional

from mxnet_trt_property import __version__
from mxnet_trt_property.cli import bench, demo, explain
from mxnet_trt_property.errors import TensorRTPropertyError

_COMMANDS = (demo, explain, bench)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs one sub-command and returns its exit status; a user's error prints one line and returns 1."""
    parser = argparse.ArgumentParser(prog="mxnet-trt", description="TensorRT for stock Apache MXNet 1.9.")
    parser.add_argument("--version", action="version", version=f"mxnet-trt-property {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in _COMMANDS:
        summary = (module.__doc__ or "").splitlines()[0]
        sub = commands.add_parser(module.NAME, help=summary, description=module.__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except TensorRTPropertyError as error:
        print(f"mxnet-trt: {error}", file=sys.stderr)
        return 1
    return status
