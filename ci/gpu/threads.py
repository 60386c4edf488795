"""Throughput of many threads, and whether 100,000 forwards leave anything behind, on a GPU machine.

usage: python ci/gpu/threads.py --out DIR [--model NAME] [--seconds S] [--forwards N]

Inferences a second at batch 1, host arrays, for 1, 2, 4 and 8 threads: each with a bound call of one compiled model,
and each with an executor of its own. MXNet serializes operators on the CPU by default; the variables that let them
run side by side are set below, before MXNet is imported. Then one executor runs N forwards, and host and device memory
are printed on the way. Writes DIR/threads.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _name in ("MXNET_CPU_WORKER_NTHREADS", "MXNET_CPU_TEMP_COPY", "MXNET_CPU_PARALLEL_RAND_COPY"):
    os.environ.setdefault(_name, "8")

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mxnet_trt_property  # noqa: E402 - its shims come before mxnet
from mxnet_trt_property import cuda_driver  # noqa: E402
from mxnet_trt_property.cli import bench_machine  # noqa: E402


def main() -> int:
    """Runs the measurements and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="resnet18_v2")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--forwards", type=int, default=100_000)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"machine": bench_machine.describe(), "model": arguments.model, "per_second": []}
    for count in (1, 2, 4, 8):
        row = {"threads": count}
        for kind, make in (("compile", bound_calls), ("executors", executors)):
            row[kind] = throughput(make(arguments.model, count), arguments.seconds)
        record["per_second"].append(row)
        print("  ".join(f"{k} {v:.0f}" for k, v in row.items()), flush=True)
    record["memory"] = soak(arguments.model, arguments.forwards)
    (arguments.out / "threads.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0


def network(name: str) -> Any:
    """Returns the network, made once."""
    from tests.models import zoo

    if name not in _networks:
        _networks[name] = zoo.vision(name, size=224)
    return _networks[name]


_networks: dict[str, Any] = {}


def bound_calls(name: str, count: int) -> list[Callable[[], Any]]:
    """Returns bound calls of one compiled model, each on arrays of its own."""
    import numpy as np

    net = network(name)
    model = mxnet_trt_property.compile(net.symbol, net.arg_params, net.aux_params, net.data_shapes)
    shape = net.data_shapes["data"]
    return [model.bind(np.random.default_rng(i).standard_normal(shape).astype("float32")) for i in range(count)]


def executors(name: str, count: int) -> list[Callable[[], Any]]:
    """Returns forwards of executors with arrays of their own, results waited for."""
    return [forward for _, forward in (executor(name) for _ in range(count))]


def executor(name: str) -> tuple[Any, Callable[[], Any]]:
    """Returns an executor with random data in place, and its forward."""
    import mxnet as mx

    from tests.symbols import backend

    net = network(name)
    with backend("TensorRT"):
        made = net.symbol.simple_bind(mx.cpu(), grad_req="null", **net.data_shapes)
    made.copy_params_from(net.arg_params, net.aux_params)
    made.arg_dict["data"][:] = mx.nd.random.normal(shape=net.data_shapes["data"])

    def forward() -> None:
        made.forward(is_train=False)[0].wait_to_read()

    return made, forward


def throughput(calls: list[Callable[[], Any]], seconds: float) -> float:
    """Returns the calls a second of all threads together, each thread with a call of its own."""
    for call in calls:
        for _ in range(5):
            call()
    counts = [0] * len(calls)
    stop = time.perf_counter() + seconds

    def work(i: int) -> None:
        while time.perf_counter() < stop:
            calls[i]()
            counts[i] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def soak(name: str, forwards: int) -> list[dict[str, float]]:
    """Runs forwards and returns memory on the way."""
    driver = cuda_driver.default()
    _, forward = executor(name)
    rows = []
    start = time.perf_counter()
    for i in range(forwards + 1):
        if i % (forwards // 10) == 0:
            with driver.on_device(0):
                free, total = driver.mem_get_info()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            rows.append(
                {
                    "forwards": i,
                    "seconds": time.perf_counter() - start,
                    "host_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
                    "device_mb": (total - free) / 1e6,
                }
            )
            print("  ".join(f"{k} {v:.1f}" for k, v in rows[-1].items()), flush=True)
        forward()
    return rows


if __name__ == "__main__":
    sys.exit(main())
