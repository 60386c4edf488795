"""Runs every accepted row of the operator tests on TensorRT and compares with MXNet on the CPU; needs a GPU.

usage: python ci/gpu/verify_operators.py --out DIR [--workers N] [--seconds S] [--match TEXT] [--engine NAME]

Each row is bound twice, as its test does: MXNET_SUBGRAPH_BACKEND=NONE is the reference, the engine is the candidate,
run three times. A row passes if all of its nodes were taken, but those that the engine refuses; if shapes and dtypes
are MXNet's, integers and booleans equal, NaN and infinities in the same places; and if the relative error of each
floating-point output in the 2-norm is at most that of TF32 (2e-3), or the row's own tolerance.

Rows are spread over worker processes; a row that takes its worker with it is named, and the others go on. Prints the
rows that fail and a summary; writes DIR/operators.json. Exit status 1 if a row failed or was not run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mxnet_trt_property  # noqa: E402, F401 - its shims come before mxnet
from mxnet_trt_property.cli import bench_machine  # noqa: E402
from mxnet_trt_property.engines import registry  # noqa: E402

TOLERANCE = 2e-3
FORWARDS = 3


def main() -> int:
    """Runs the rows and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seconds", type=float, default=400, help="no row is begun later than this")
    parser.add_argument("--match", default="", help="only rows whose names hold this text (several: a|b)")
    parser.add_argument("--engine", default="tensorrt_rtx")
    arguments = parser.parse_args()
    from tests.harness import all_rows

    deadline = time.time() + arguments.seconds
    wanted = arguments.match.split("|")
    names = [str(row) for row in all_rows("ACCEPTED") if any(text in str(row) for text in wanted) and not row.engine]
    records = spread(names, arguments.workers, arguments.engine, deadline)
    failed = [r for r in records if not r["passed"]]
    for record in failed:
        print(f"{record['row']}: {record['why'].strip().splitlines()[-1][:300]}")
    missing = sorted(set(names) - {r["row"] for r in records})
    worst = sorted((r for r in records if r["passed"]), key=lambda r: -float(r["error"]))[:10]
    print("largest errors of rows that passed:", ", ".join(f"{r['row']} {r['error']:.1e}" for r in worst))
    refused = [r for r in records if "refused" in r and r["passed"]]
    for words, rows in groupby(sorted(refused, key=reason_of), key=reason_of):
        print(f"left to MXNet, {words}: {', '.join(r['row'] for r in rows)}")
    passed = len(records) - len(failed) - len(refused)
    print(
        f"{passed} passed, {len(refused)} left to MXNet, {len(failed)} failed, {len(missing)} not run, of {len(names)}"
    )
    rows = sorted(records, key=lambda r: str(r["row"]))
    result = {"machine": bench_machine.describe(), "rows": rows, "not_run": missing}
    (arguments.out / "operators.json").write_text(json.dumps(result, indent=0) + "\n")
    return 1 if failed or missing else 0


def reason_of(record: dict[str, Any]) -> str:
    """Returns why the engine refuses a row."""
    return str(record["refused"])


def spread(names: Sequence[str], workers: int, engine: str, deadline: float) -> list[dict[str, Any]]:
    """Runs the rows in worker processes and returns their records; a worker that dies is replaced."""
    context = multiprocessing.get_context("spawn")
    tasks, results = context.Queue(), context.Queue()
    for name in names:
        tasks.put(name)
    pool = [start(context, tasks, results, engine, deadline) for _ in range(workers)]
    records: dict[str, dict[str, Any]] = {}
    running: dict[int, str] = {}
    while pool:
        while not results.empty():
            number, record = results.get()
            if isinstance(record, str):
                running[number] = record
            else:
                running.pop(number, None)
                records[record["row"]] = record
        for worker in list(pool):
            if worker.is_alive():
                continue
            pool.remove(worker)
            name = running.pop(worker.pid, None)
            if worker.exitcode != 0 and name is not None and name not in records:
                why = f"its process died with status {worker.exitcode}"
                records[name] = {"row": name, "passed": False, "why": why, "error": 0.0}
                pool.append(start(context, tasks, results, engine, deadline))
        if time.time() > deadline + 30:
            for worker in pool:
                worker.kill()
            for name in running.values():
                records.setdefault(name, {"row": name, "passed": False, "why": "it did not end", "error": 0.0})
            break
        time.sleep(0.05)
    return list(records.values())


def start(context: Any, tasks: Any, results: Any, engine: str, deadline: float) -> Any:
    """Starts a worker process."""
    worker = context.Process(target=work, args=(tasks, results, engine, deadline), daemon=True)
    worker.start()
    return worker


def work(tasks: Any, results: Any, engine: str, deadline: float) -> None:
    """Runs rows until there are none left, or no time."""
    import queue

    from tests.harness import all_rows

    rows = {str(row): row for row in all_rows("ACCEPTED")}
    while time.time() < deadline:
        try:
            name = tasks.get(timeout=1)
        except queue.Empty:
            break
        results.put((os.getpid(), name))
        results.put((os.getpid(), judge(rows[name], engine)))
    tasks.cancel_join_thread()
    results.close()
    results.join_thread()


def judge(row: Any, engine: str) -> dict[str, Any]:
    """Returns the record of one row."""
    import numpy as np

    from tests import harness

    record: dict[str, Any] = {"row": str(row), "passed": False, "why": "", "error": 0.0}
    start = time.perf_counter()
    try:
        symbol = row.build()
        arrays = harness.all_arrays(symbol, row.shapes, row.dtypes, row.fills)
        expected = harness.stock_outputs(symbol, arrays)
        found, report = harness.plugin_outputs(symbol, arrays, engine, FORWARDS)
        refused = registry.get(engine).refused_nodes(harness.row_model(row))
        if refused:
            record["refused"] = "; ".join(dict.fromkeys(refused.values()))
            assert report.refused, "the engine refuses a node and it was taken"
        else:
            harness.assert_taken(report)
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            if not np.issubdtype(theirs.dtype, np.floating):
                np.testing.assert_array_equal(ours, theirs)
                continue
            a, b = ours.astype("float64"), theirs.astype("float64")
            finite = np.isfinite(b)
            np.testing.assert_array_equal(a[~finite], b[~finite])
            error = float(np.linalg.norm(a[finite] - b[finite]) / max(float(np.linalg.norm(b[finite])), 1e-30))
            if not np.allclose(a[finite], b[finite], rtol=row.rtol, atol=row.atol):
                record["error"] = max(record["error"], error)
                assert error <= max(TOLERANCE, row.rtol), f"relative error {error:.1e}: {a.ravel()[:4]} {b.ravel()[:4]}"
        record["passed"] = True
    except BaseException as error:  # noqa: BLE001 - a row that fails must not stop the others
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        words = " ".join(str(error).split())
        record["why"] = f"{text}\n{type(error).__name__}: {words[:1500]}"
    record["seconds"] = round(time.perf_counter() - start, 2)
    return record


if __name__ == "__main__":
    sys.exit(main())
