"""Gives the readers of files far more damaged ones than the tests do.

    python ci/fuzz.py [--cache 1000000] [--params 20000] [--symbols 20000]

Prints how many files each reader got and how long that took; a failure ends it with the file that caused it, as
hypothesis shows it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> int:
    """Runs the searches one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=int, default=1_000_000, help="files for the reader of the cache")
    parser.add_argument("--params", type=int, default=20_000, help=".params files")
    parser.add_argument("--symbols", type=int, default=20_000, help="symbols' JSON texts")
    arguments = parser.parse_args()
    from tests.cache import test_entry
    from tests.cli import test_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        for name, search in (
            ("cache", lambda: test_entry.fuzz(arguments.cache)),
            ("params", lambda: test_checkpoint.fuzz_parameters(arguments.params, Path(folder))),
            ("symbols", lambda: test_checkpoint.fuzz_symbols(arguments.symbols)),
        ):
            start = time.perf_counter()
            count = search()
            print(f"{name:8} {count:>9} files, {time.perf_counter() - start:.0f} s, none misread", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
