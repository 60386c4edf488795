"""Runs MXNet's own unit tests without and with TensorRT, test by test, and prints what differs.

usage: python ci/compare_unit_tests.py MXNET_CHECKOUT [--files NAME,...] [--timeout SECONDS] [--logs DIR]

MXNET_CHECKOUT is a source tree of MXNet 1.9.1, of which `tests/python` is needed. The interpreter that runs this needs
mxnet, this package, an engine, pytest, and `nose.tools` (pynose has it for today's Pythons); NumPy 1.23 is the newest
that the tests themselves were written for. Each file runs in a process of its own with MXNET_SUBGRAPH_BACKEND=NONE, and
in another one with TensorRT. What fails in both in the same way (tests that download, tests that are older than the
installed packages) is equal. A test that differs is run once more by itself, so that chance does not count. Exit
status 1 if a test differs and is not in KNOWN.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

FILES = (
    "test_executor test_module test_symbol test_subgraph test_subgraph_op test_predictor test_profiler test_viz"
    " test_gluon test_gluon_model_zoo test_gluon_save test_gluon_contrib test_numpy_gluon test_engine"
    " test_engine_import test_infer_shape test_infer_type test_attr test_multi_device_exec test_model_parallel"
    " test_exc_handling test_thread_local test_dynamic_shape test_extensions test_rnn test_contrib_svrg_module"
    " test_contrib_control_flow"
).split()

KNOWN = {
    "test_symbol.py::test_zero_prop": "the test compares how much memory MXNet plans for two graphs, of which TensorRT "
    "runs one; what its engine needs is not MXNet's",
}
"""Differences that are meant, by `file.py::test`, with the reason."""

# The tests take their seeds from here, so that both runs see the same random numbers.
_SEEDS = {"MXNET_TEST_SEED": "7", "MXNET_MODULE_SEED": "7"}
_PREFIX = "COMPARE_UNIT_TESTS_"
_BACKENDS = ("NONE", "TensorRT")


class Outcome(NamedTuple):
    """How one test ended: what is compared, the text of the failure, and whether TensorRT nodes were made or run."""

    status: str
    text: str = ""
    used_tensorrt: bool = False


Outcomes = dict[str, Outcome]


def main() -> int:
    """Runs the comparison and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, metavar="MXNET_CHECKOUT")
    parser.add_argument("--files", default=",".join(FILES), help="test files without .py, separated by commas")
    parser.add_argument("--timeout", type=int, default=180, help="seconds for one test (default: %(default)s)")
    parser.add_argument("--logs", type=Path, help="a folder to keep what pytest printed")
    arguments = parser.parse_args()
    folder = arguments.checkout.resolve() / "tests" / "python" / "unittest"
    names = arguments.files.split(",")
    for name in names:
        if not (folder / f"{name}.py").is_file():
            parser.error(f"no {name}.py in {folder} | required: a source tree of MXNet 1.9.1")
    differences = 0
    with tempfile.TemporaryDirectory() as scratch:
        logs = (arguments.logs or Path(scratch)).resolve()
        logs.mkdir(parents=True, exist_ok=True)
        print(
            f"{'file':28s} {'tests':>6s} {'equal':>6s} {'passed':>7s} {'with TensorRT':>14s} {'differ':>7s}", flush=True
        )
        for name in names:
            stock, ours = (run(folder, name, backend, arguments.timeout, logs) for backend in _BACKENDS)
            suspects = [test for test in stock.keys() | ours.keys() if not _equal(stock, ours, test)]
            if suspects:
                again = [run(folder, name, b, arguments.timeout, logs, sorted(suspects)) for b in _BACKENDS]
                suspects = sorted(test for test in suspects if not _equal(*again, test))
                stock, ours = {**stock, **again[0]}, {**ours, **again[1]}
            passed = sum(outcome.status == "passed" for outcome in ours.values())
            used = sum(outcome.used_tensorrt for outcome in ours.values())
            total = len(stock.keys() | ours.keys())
            row = (total, total - len(suspects), passed, used, len(suspects))
            print(f"{name:28s} {row[0]:6d} {row[1]:6d} {row[2]:7d} {row[3]:14d} {row[4]:7d}", flush=True)
            for test in suspects:
                differences += test not in KNOWN
                _print_difference(test, stock.get(test), ours.get(test))
    print(f"{differences} difference(s) that are not known")
    return 1 if differences else 0


def _equal(stock: Outcomes, ours: Outcomes, test: str) -> bool:
    return test in stock and test in ours and stock[test].status == ours[test].status


def _print_difference(test: str, stock: Outcome | None, ours: Outcome | None) -> None:
    print(f"  {test}: {KNOWN.get(test, 'not known')}")
    for name, outcome in zip(_BACKENDS, (stock, ours)):
        print(f"    {name}: {'did not run' if outcome is None else outcome.status}")
        for line in (outcome.text if outcome else "").splitlines()[-8:]:
            print(f"      {line}")


def run(
    folder: Path, name: str, backend: str, timeout: int, logs: Path, only: Collection[str] | None = None
) -> Outcomes:
    """Runs one file, and the tests after one that ends its process in another process.

    Args:
        folder: Where the file is.
        name: Its name without .py.
        backend: The value of MXNET_SUBGRAPH_BACKEND.
        timeout: Seconds for one test, after which its process is ended.
        logs: Where pytest's output goes.
        only: The tests to run; None for all.
    """
    outcomes: Outcomes = {}
    count = 0
    while True:
        count += 1
        stem = f"{name}-{backend}{'-alone' if only else ''}-{count}"
        record, printed = logs / f"{stem}.jsonl", logs / f"{stem}.log"
        record.unlink(missing_ok=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MXNET_")}
        environment.update(_SEEDS, MXNET_SUBGRAPH_BACKEND=backend, MXNET_SUBGRAPH_VERBOSE="0")
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).resolve().parent), *filter(None, [environment.get("PYTHONPATH")])]
        )
        job = {"record": str(record), "timeout": timeout, "done": list(outcomes), "only": only and list(only)}
        environment[_PREFIX + "JOB"] = json.dumps(job)
        command = [sys.executable, "-m", "pytest", "-q", "-p", Path(__file__).stem, "-p", "no:cacheprovider"]
        command += ["-c", os.devnull, "--rootdir", str(folder), f"{name}.py"]
        with printed.open("wb") as log:
            status = subprocess.run(
                command, cwd=folder, env=environment, stdout=log, stderr=log, check=False
            ).returncode
        begun = _read(record, outcomes)
        if begun is None:
            if not outcomes and status not in (0, 5):
                outcomes[f"{name}.py::(collection)"] = Outcome(f"pytest's status {status}", printed.read_text())
            return outcomes
        outcomes[begun] = Outcome(f"ended its process, or took more than {timeout} s")


def _read(record: Path, outcomes: Outcomes) -> str | None:
    """Adds what a process recorded; returns the test that it ended in, if it did."""
    begun = None
    for line in record.read_text().splitlines() if record.exists() else ():
        entry = json.loads(line)
        if "begun" in entry:
            begun = entry["begun"]
        else:
            outcomes[begun or ""] = Outcome(**entry)
            begun = None
    return begun


# ---- from here on: the plugin that pytest loads in each of those processes ----


class _Recorder:
    """Writes a line as each test begins and ends, so that the record survives the process."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._file = open(job["record"], "a", encoding="utf-8")  # noqa: SIM115 - open until the process ends
        self._parts: list[Any] = []
        self._calls = 0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        only, done = self._job["only"], set(self._job["done"])
        items[:] = [i for i in items if i.nodeid not in done and (only is None or i.nodeid in only)]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write({"begun": nodeid})
        self._parts, self._calls = [], _calls()
        faulthandler.dump_traceback_later(self._job["timeout"], exit=True)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._parts.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        faulthandler.cancel_dump_traceback_later()
        failed = [part for part in self._parts if part.failed]
        status = "passed"
        if failed:
            # What was raised, without its text, which may hold addresses and random numbers.
            crash = getattr(failed[0].longrepr, "reprcrash", None)
            status = (
                f"failed in {failed[0].when}: " + (crash.message if crash else "").split(":")[0].split("\n")[0][:60]
            )
        elif any(part.skipped for part in self._parts):
            status = "skipped"
        text = "\n".join(part.longreprtext for part in failed)
        self._write({"status": status, "text": text, "used_tensorrt": _calls() > self._calls})

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()


def _calls() -> int:
    """Returns how often MXNet called into this package; 0 before it did."""
    native = sys.modules.get("mxnet_trt_property.native")
    return native.callback_count() if native is not None and native._library is not None else 0


def pytest_configure(config: Any) -> None:
    """Starts recording, where this file is loaded as a plugin."""
    import mxnet  # noqa: F401 - the installed one: the tests put the checkout's before it

    job = os.environ.pop(_PREFIX + "JOB")
    config.pluginmanager.register(_Recorder(json.loads(job)))


if __name__ == "__main__":
    sys.exit(main())
