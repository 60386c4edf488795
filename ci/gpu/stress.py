"""Runs changing inputs through every way of running an engine and checks each single result, on a GPU machine.

usage: python ci/gpu/stress.py --out DIR [--models NAME:BATCH,...] [--count N] [--aux N] [--level N] [--ways TEXT,...]
                               [--context cpu|gpu]

A benchmark that runs one input again and again cannot see a run that reads yesterday's data. Here the input changes at
each call, among a few whose results are known from MXNet on the CPU, and every result is compared: by value, and, where
it is wrong, with the results of the other inputs. Prints, for each way, how many results were wrong, how many of those
were another input's, the largest relative error, and how many different results one input had. Exit status 1 if any was
wrong. --aux and --level set the builder's max_aux_streams and optimization level; --ways takes the ways whose names
begin so. --context gpu runs executors on arrays of mx.gpu(0), also many forwards without waiting in between.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mxnet_trt_property  # noqa: E402, F401 - its shims come before mxnet
from mxnet_trt_property import compiled_source, cuda_driver, cuda_graph, settings  # noqa: E402
from mxnet_trt_property.cli import demo  # noqa: E402
from mxnet_trt_property.engines import registry, trt_build  # noqa: E402
from mxnet_trt_property.engines.registry import Buffer, Device, Options  # noqa: E402

INPUTS = 5
TOLERANCE = 4e-3  # TF32, in networks with the statistics of a few training passes
CPU = Device("cpu", 0)

# Shown beside the others; on some GPUs only captured runs are right (engines/trt_program.py).
QUEUED = "queued anew"

Array = Any
Way = Callable[[Array], Array]


def main() -> int:
    """Runs the checks and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default="resnet50_v2:1,resnet18_v2:8")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--aux", type=int)
    parser.add_argument("--level", type=int)
    parser.add_argument("--ways", default="")
    parser.add_argument("--context", choices=("cpu", "gpu"), default="cpu")
    arguments = parser.parse_args()
    configure(arguments)
    record = []
    with tempfile.TemporaryDirectory() as folder:
        for item in arguments.models.split(","):
            name, _, batch = item.partition(":")
            wanted = tuple(arguments.ways.split(","))
            for row in check(name, int(batch), arguments.count, Path(folder), wanted, arguments.context):
                record.append(row)
                print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    print("edges replaced in graphs:", cuda_graph.replaced_edges)
    (arguments.out / f"stress-{arguments.context}.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(row["wrong"] == 0 for row in record if row["way"] != QUEUED) else 1


def configure(arguments: argparse.Namespace) -> None:
    """Sets what the arguments ask of TensorRT's builder."""
    target = trt_build.Library._target

    def with_settings(self: Any, config: Any, compute_capabilities: Any) -> None:
        target(self, config, compute_capabilities)
        if arguments.aux is not None:
            config.max_aux_streams = arguments.aux
        if arguments.level is not None:
            config.builder_optimization_level = arguments.level

    trt_build.Library._target = with_settings  # type: ignore[method-assign]


def check(
    name: str, batch: int, count: int, folder: Path, wanted: tuple[str, ...], context: str
) -> list[dict[str, Any]]:
    """Returns a row for each way of running one network."""
    import mxnet as mx

    prefix = str(folder / name)
    demo.export_gluon(name, prefix)
    symbol, arg_params, aux_params = mx.model.load_checkpoint(prefix, 0)
    shape = (batch, 3, 224, 224)
    _, onnx, _ = compiled_source.convert(symbol, arg_params, aux_params, {"data": shape}, {}, settings.read())
    engine = registry.choose("auto", CPU).engines[0]
    program = engine.build(onnx, Options(), CPU, name)
    inputs = [np.random.default_rng(i).standard_normal(shape).astype("float32") for i in range(INPUTS)]
    expected = stock(symbol, arg_params, aux_params, inputs)
    ways: dict[str, Callable[[], Way]] = {}
    if context == "cpu":
        ways[QUEUED] = lambda: queued_anew(program, shape)
        ways["replayed, staged"] = lambda: replayed(program, shape, in_place=False)
        ways["replayed, in place"] = lambda: replayed(program, shape, in_place=True)
    for early in (False, True):
        for blog in (False, True):
            key = ("forward(data=x)" if blog else "forward()") + (", started early" if early else "")
            bind = functools.partial(bound, symbol, arg_params, aux_params, shape, early, context)
            ways[key] = functools.partial(executor, bind, blog)
            if blog:
                ways[f"{key}, three without waiting"] = functools.partial(queue_of_three, bind)
    return [
        {"model": name, "batch": batch, "engine": engine.name, "way": key, **judge(make(), inputs, expected, count)}
        for key, make in ways.items()
        if key.startswith(wanted)
    ]


def stock(symbol: Any, arg_params: Any, aux_params: Any, inputs: list[Array]) -> list[Array]:
    """Returns what MXNet computes on the CPU."""
    import mxnet as mx

    from tests.symbols import backend

    with backend("NONE"):
        made = symbol.simple_bind(mx.cpu(), grad_req="null", data=inputs[0].shape)
    made.copy_params_from(arg_params, aux_params)
    return [made.forward(is_train=False, data=mx.nd.array(x))[0].asnumpy() for x in inputs]


def judge(way: Way, inputs: list[Array], expected: list[Array], count: int) -> dict[str, Any]:
    """Runs a way on changing inputs and returns how many results were wrong."""
    order = np.random.default_rng(0).integers(0, len(inputs), count)
    wrong = others = 0
    different: list[set[bytes]] = [set() for _ in inputs]
    worst = 0.0
    for i in order:
        found = way(inputs[i])
        different[i].add(found.tobytes())
        errors = [float(np.linalg.norm(found - e) / np.linalg.norm(e)) for e in expected]
        worst = max(worst, errors[i])
        if not errors[i] <= TOLERANCE:
            wrong += 1
            others += any(e <= TOLERANCE for j, e in enumerate(errors) if j != i)
    return {
        "runs": count,
        "wrong": wrong,
        "of another input": others,
        "largest error": f"{worst:.1e}",
        "results of one input": max(len(d) for d in different),
    }


def queued_anew(program: Any, shape: tuple[int, ...]) -> Way:
    """Returns a run that is never captured."""
    runner = program.runner(CPU)
    x, y, buffers = arrays_of(shape)
    driver = cuda_driver.default()

    def way(data: Array) -> Array:
        x[...] = data
        with driver.on_device(0):
            runner.prepare(buffers[:1], buffers[1:])
            runner._queue(0)
        return y.copy()

    return way


def replayed(program: Any, shape: tuple[int, ...], in_place: bool) -> Way:
    """Returns a run on fixed arrays, pinned in place or not."""
    runner = program.runner(CPU)
    x, y, buffers = arrays_of(shape)
    if in_place:
        runner.pin([x.ctypes.data])

    def way(data: Array) -> Array:
        x[...] = data
        y[...] = np.nan
        runner.run(buffers[:1], buffers[1:], 0)
        return y.copy()

    return way


def arrays_of(shape: tuple[int, ...]) -> tuple[Array, Array, list[Buffer]]:
    """Returns an input array, an output array, and both as buffers."""
    x, y = np.zeros(shape, np.float32), np.zeros((shape[0], 1000), np.float32)
    return x, y, [Buffer(a.ctypes.data, a.shape, a.dtype) for a in (x, y)]


def bound(
    symbol: Any, arg_params: Any, aux_params: Any, shape: tuple[int, ...], early: bool, context: str
) -> tuple[Any, Any]:
    """Returns an executor that has run once, and its context; with `early`, one whose forwards start early."""
    import mxnet as mx

    from mxnet_trt_property import executor
    from tests.symbols import backend

    device = mx.gpu(0) if context == "gpu" else mx.cpu()
    executor._LONG_WAIT = float("inf")  # a program that waits for its input here, too, must get right results
    with backend("TensorRT"):
        made = symbol.simple_bind(device, grad_req="null", data=shape)
    made.copy_params_from(arg_params, aux_params)
    made.forward()[0].wait_to_read()
    if not early:
        made.tensorrt.early = None
    return made, device


def executor(bind: Callable[[], tuple[Any, Any]], blog: bool) -> Way:
    """Returns an executor's forward."""
    import mxnet as mx

    made, device = bind()

    def way(data: Array) -> Array:
        array = mx.nd.array(data, ctx=device)
        if blog:
            return made.forward(is_train=False, data=array)[0].asnumpy()
        made.arg_dict["data"][:] = array
        return made.forward(is_train=False)[0].asnumpy()

    return way


def queue_of_three(bind: Callable[[], tuple[Any, Any]]) -> Way:
    """Returns a forward between two others on other inputs, none of which is waited for; its result is copied away."""
    import mxnet as mx

    made, device = bind()
    other = None

    def way(data: Array) -> Array:
        nonlocal other
        array = mx.nd.array(data, ctx=device)
        kept = mx.nd.empty(made.outputs[0].shape, ctx=device)
        made.forward(is_train=False, data=other if other is not None else array)
        made.forward(is_train=False, data=array)[0].copyto(kept)
        made.forward(is_train=False, data=other if other is not None else array)
        other = array
        return kept.asnumpy()

    return way


if __name__ == "__main__":
    sys.exit(main())
