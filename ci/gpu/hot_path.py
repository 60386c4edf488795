"""Measures what a forward costs around the bare engine, on a GPU machine.

usage: python ci/gpu/hot_path.py --out DIR [--models NAME,...] [--batches 1,8,32] [--context cpu|gpu] [--seconds S]

For each network and batch, in one process and interleaved, medians of seven rounds:

    limit     the captured CUDA graph with its copies, replayed by nothing but a ctypes call
    forward   executor.forward() with the data in place, and wait_to_read
    blog      executor.forward(data=x), and wait_to_read: the loop of the MXNet blog post
    floor     the same loop on an executor whose graph is one `_copy` of one element of the input

Prints a table in microseconds and writes DIR/hot-path-CONTEXT.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from verify_models import machine  # noqa: E402  (the script beside this one)

import mxnet_trt_property  # noqa: E402, F401

ROUNDS = 7


def main() -> int:
    """Runs the measurements and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default="resnet18_v2,resnet50_v2,mobilenetv2_1.0")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--context", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--seconds", type=float, default=0.15, help="of one measurement in a round")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models.split(","):
        for batch in (int(b) for b in arguments.batches.split(",")):
            rows.append(measure(name, batch, arguments.context, arguments.seconds))
            print(
                "  ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items()), flush=True
            )
    record = {"machine": machine(), "context": arguments.context, "unit": "microseconds", "rows": rows}
    (arguments.out / f"hot-path-{arguments.context}.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0


def measure(name: str, batch: int, where: str, seconds: float) -> dict[str, Any]:
    """Returns the medians of one network and batch."""
    import mxnet as mx
    import numpy as np

    from mxnet_trt_property import native
    from tests.models import zoo
    from tests.symbols import backend

    context = mx.gpu(0) if where == "gpu" else mx.cpu()
    net = zoo.vision(name, batch=1, size=224)
    shape = (batch, *net.data_shapes["data"][1:])
    data = mx.nd.array(np.random.default_rng(5).standard_normal(shape), ctx=context)

    def bind() -> Any:
        with backend("TensorRT"):
            made = net.symbol.simple_bind(context, grad_req="null", data=shape)
        made.copy_params_from(net.arg_params, net.aux_params)
        for _ in range(5):
            made.forward(is_train=False, data=data)[0].wait_to_read()
        return made

    executor = bind()
    # Each loop an executor of its own on a GPU, where one that feeds without waiting is not started early for a while.
    fed = bind() if where == "gpu" else executor
    for _ in range(100):
        executor.forward(is_train=False)[0].wait_to_read()
    trivial = mx.sym.slice(mx.sym.var("data"), begin=(0,) * len(shape), end=(1,) * len(shape))
    with backend(None):
        floor = trivial.simple_bind(context, grad_req="null", data=shape)

    def forward() -> None:
        executor.forward(is_train=False)[0].wait_to_read()

    def blog() -> None:
        fed.forward(is_train=False, data=data)[0].wait_to_read()

    def floor_loop() -> None:
        floor.forward(is_train=False, data=data)[0].wait_to_read()

    def call() -> None:
        executor.forward(is_train=False)

    loops: dict[str, Callable[[], None]] = {"limit": bare(executor, where), "forward": forward, "blog": blog}
    if where == "cpu":
        loops["floor"] = floor_loop
    calls = native.callback_count()
    times: dict[str, list[float]] = {key: [] for key in loops}
    for _ in range(ROUNDS):
        for key, loop in loops.items():
            times[key].append(timed(loop, seconds))
    row: dict[str, Any] = {"model": name, "batch": batch}
    row.update({key: float(np.median(found)) for key, found in times.items()})
    row["forward-limit"] = row["forward"] - row["limit"]
    row["forward/limit"] = row["forward"] / row["limit"]
    if where == "gpu":
        start = time.perf_counter()
        call()
        row["call_only"] = (time.perf_counter() - start) * 1e6
        executor.outputs[0].wait_to_read()
    row["python_calls"] = native.callback_count() - calls
    return row


def bare(executor: Any, where: str) -> Callable[[], None]:
    """Returns a function that replays the executor's captured run and waits for it."""
    from mxnet_trt_property import cuda_driver
    from mxnet_trt_property.engines.registry import Buffer
    from mxnet_trt_property.executor import address_of

    session = executor.tensorrt.sessions[0]
    runner = session._runner
    inputs = [Buffer(address_of(executor.arg_arrays[i]), shape, dtype) for i, shape, dtype in session.arrays.inputs]
    outputs = [Buffer(address_of(o), o.shape, session.arrays.inputs[0][2]) for o in executor.outputs]
    if where == "cpu":
        replay: Callable[[], None] = runner.bare(inputs, outputs)
        return replay
    driver = cuda_driver.default()
    with driver.on_device(0):
        stream = driver.stream_create()
    queue = runner.bare(inputs, outputs, stream)

    def queue_and_wait() -> None:
        queue()
        with driver.on_device(0):
            driver.synchronize(stream)

    return queue_and_wait


def timed(loop: Callable[[], None], seconds: float) -> float:
    """Returns the mean microseconds of a call over about `seconds`."""
    count = 0
    start = time.perf_counter()
    while True:
        for _ in range(10):
            loop()
        count += 10
        now = time.perf_counter()
        if now - start > seconds:
            return (now - start) / count * 1e6


if __name__ == "__main__":
    sys.exit(main())
