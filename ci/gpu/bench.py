"""Runs `mxnet-trt bench` on a GPU machine and leaves its results in a folder.

usage: python ci/gpu/bench.py --out DIR [--name NAME] [any argument of `mxnet-trt bench` but --json and --plot]

Writes DIR/NAME.json, DIR/NAME.txt (what was printed) and, where matplotlib is installed, DIR/NAME.svg. The exit status
is that of the command.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mxnet_trt_property.cli import main as command  # noqa: E402


def main() -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="bench")
    arguments, rest = parser.parse_known_args()
    files = arguments.out / arguments.name
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", filename=f"{files}.log")
    plot = ["--plot", f"{files}.svg"] if importlib.util.find_spec("matplotlib") else []
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            status = command.main(["bench", *rest, "--json", f"{files}.json", *plot])
    finally:
        print(printed.getvalue(), end="")
        Path(f"{files}.txt").write_text(printed.getvalue())
    return status


if __name__ == "__main__":
    sys.exit(main())
