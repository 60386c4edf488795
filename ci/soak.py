"""Binds, runs, reshapes and frees networks thousands of times, and checks each result and the memory of the process.

usage: python ci/soak.py [--cycles N] [--minutes M] [--seed N] [--zoo N] [--leak N] [--stock]

Each cycle takes a random small network, or now and then one of Gluon's model zoo, at a random batch size: an executor
with TensorRT nodes is bound, filled, run twice, reshaped to another batch, run again and freed. Every output is
compared with what stock MXNet gave for the same network, parameters, shape and data. Prints the resident memory, and
what is allocated and not freed, at intervals; the first 2000 cycles are warm-up. Exit status 1 if a number differs or
the resident memory grows by more than --leak bytes a cycle.

The default for --leak is what fragments of the heap can pretend where the allocated memory does not grow; what MXNet's
own inference would lose (docs/architecture.md) is ten times as much. --stock runs the same cycles without TensorRT, to
compare with. ONNX Runtime's telemetry is off: its memory grows by some 200 bytes a cycle.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")

import mxnet_trt_property  # noqa: E402, F401 - its shims come before mxnet

# isort: split
import mxnet as mx  # noqa: E402

from mxnet_trt_property import programs  # noqa: E402
from mxnet_trt_property.environment import environment  # noqa: E402

BATCHES = (1, 2, 3, 5)
TOLERANCE = 1e-4  # relative, in the norm: float32 in another order, through up to fifty layers
SMALL_NETWORKS = 40
WARM_UP = 2000  # cycles: by then most networks were there at each batch size
ROWS = 250  # cycles from one line of figures to the next
ZOO = ("resnet18_v1", "resnet18_v2", "mobilenet0.25", "mobilenetv2_0.25", "resnet34_v2", "vgg11_bn")
ZOO_SIZE = 32


@dataclass
class Network:
    """A network, its parameters, and for each batch size its data and stock MXNet's outputs."""

    name: str
    symbol: Any
    parameters: Mapping[str, Any]
    shape: tuple[int, ...]
    expected: dict[int, tuple[Any, list[Any]]] = field(default_factory=dict)

    def at(self, batch: int) -> tuple[Any, list[Any]]:
        """Returns data and expected outputs for a batch size."""
        if batch not in self.expected:
            rng = np.random.default_rng(batch)
            data = mx.nd.array(rng.standard_normal((batch, *self.shape)))
            with environment({"MXNET_SUBGRAPH_BACKEND": "NONE"}):
                executor = self.bind(batch)
            outputs = [o.asnumpy() for o in executor.forward(is_train=False, data=data)]
            self.expected[batch] = (data, outputs)
        return self.expected[batch]

    def bind(self, batch: int) -> Any:
        """Returns an executor with the parameters in it."""
        executor = self.symbol.simple_bind(mx.cpu(), grad_req="null", data=(batch, *self.shape))
        known = {**executor.arg_dict, **executor.aux_dict}
        for name, array in self.parameters.items():
            array.copyto(known[name])
        return executor


def small_network(rng: random.Random, number: int) -> Network:
    """Returns a few random layers that read each other crosswise; some nodes stay with MXNet."""
    image = rng.random() < 0.6
    shape = (rng.choice((1, 3, 4)), rng.randint(5, 12), rng.randint(5, 12)) if image else (rng.randint(3, 20),)
    kinds = ("conv", "bn", "act", "pool", "add", "left") if image else ("fc", "act", "add", "left", "left")
    made = [mx.sym.Variable("data")]
    for layer in range(rng.randint(3, 9)):
        net, name = rng.choice(made[-3:]), f"layer{layer}"
        kind = rng.choice(kinds)
        if kind == "conv":
            net = mx.sym.Convolution(net, kernel=(3, 3), pad=(1, 1), num_filter=shape[0], name=name)
        elif kind == "bn":
            net = mx.sym.BatchNorm(net, fix_gamma=rng.random() < 0.5, name=name)
        elif kind == "act":
            net = mx.sym.Activation(net, act_type=rng.choice(("relu", "tanh", "sigmoid")), name=name)
        elif kind == "pool":
            net = mx.sym.Pooling(net, kernel=(3, 3), pad=(1, 1), stride=(1, 1), pool_type="max", name=name)
        elif kind == "fc":
            net = mx.sym.FullyConnected(net, num_hidden=shape[0], name=name)
        elif kind == "add":
            net = mx.sym.broadcast_add(net, mx.sym.tanh(rng.choice(made)), name=name)
        else:
            net = mx.sym.gammaln(mx.sym.abs(net) + 1.5, name=name)
        made.append(net)
    last = mx.sym.softmax(mx.sym.FullyConnected(made[-1], num_hidden=4, name="last"))
    symbol = mx.sym.Group([last, *rng.choices(made[1:], k=rng.randint(0, 3))])
    return Network(f"small{number}", symbol, _random_parameters(symbol, (1, *shape), number), shape)


def zoo_network(name: str) -> Network:
    """Returns a network of Gluon's model zoo with random parameters."""
    block = mx.gluon.model_zoo.vision.get_model(name, classes=10)
    symbol = block(mx.sym.var("data"))
    shape = (3, ZOO_SIZE, ZOO_SIZE)
    return Network(name, symbol, _random_parameters(symbol, (1, *shape), 1), shape)


def _random_parameters(symbol: Any, shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    arguments, _, auxiliary = symbol.infer_shape(data=shape)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    made = {}
    for name, size in zip(names, arguments + auxiliary):
        value = rng.standard_normal(size) / np.sqrt(max(1, np.prod(size[1:])))
        if name.endswith(("gamma", "var")):
            value = np.abs(value) * 0.1 + 1
        if name != "data":
            made[name] = mx.nd.array(value)
    return made


def cycle(network: Network, batches: tuple[int, int], stock: bool) -> float:
    """Does one cycle and returns the largest relative error."""
    worst = 0.0
    executor = network.bind(batches[0])
    for batch in (batches[0], batches[0], batches[1]):
        data, expected = network.at(batch)
        if executor.arg_dict["data"].shape[0] != batch:
            executor = executor.reshape(allow_up_sizing=True, data=data.shape)
        outputs = executor.forward(is_train=False, data=data)
        for found, right in zip(outputs, expected):
            array = found.asnumpy()
            assert array.shape == right.shape
            worst = max(worst, float(np.linalg.norm(array - right) / max(np.linalg.norm(right), 1e-30)))
    if not stock and not hasattr(executor, "tensorrt"):
        raise RuntimeError(f"{network.name} was bound without TensorRT nodes")
    return worst


def resident_bytes() -> int:
    """Returns the resident memory of this process, without what the C library keeps for later."""
    gc.collect()
    mx.nd.waitall()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Mallinfo(ctypes.Structure):
    """struct mallinfo2 of glibc 2.33 and newer."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    ))  # fmt: skip


def allocated_bytes() -> int:
    """Returns what the process has allocated from the C library and not freed, or 0 where that cannot be asked."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return 0
    mallinfo.restype = _Mallinfo
    found = mallinfo()
    return int(found.uordblks + found.hblkhd)


def main() -> int:
    """Runs the cycles and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after this time (default: never)")
    parser.add_argument(
        "--zoo", type=int, default=50, help="one cycle in N is of a model zoo network (default: %(default)s)"
    )
    parser.add_argument("--leak", type=int, default=500, help="bytes a cycle that count as none (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stock", action="store_true", help="the same cycles without TensorRT")
    arguments = parser.parse_args()
    getattr(onnxruntime, "disable_telemetry_events", lambda: None)()  # not in older versions
    rng = random.Random(arguments.seed)
    small = [small_network(rng, number) for number in range(SMALL_NETWORKS)]
    zoo = [zoo_network(name) for name in ZOO]
    for network in small + zoo:
        for batch in BATCHES:
            network.at(batch)  # before memory is looked at
    wrong, worst, start = 0, 0.0, time.monotonic()
    history: list[tuple[int, int]] = []
    print(
        f"{'cycle':>7s} {'minutes':>8s} {'resident MB':>12s} {'allocated MB':>13s} {'builds':>7s} {'wrong':>6s} "
        f"{'worst error':>12s}",
        flush=True,
    )
    variables = {"MXNET_TENSORRT_MIN_SUBGRAPH_SIZE": "1", "MXNET_TENSORRT_CACHE": "0"}
    backend = "NONE" if arguments.stock else "TensorRT"
    with environment({"MXNET_SUBGRAPH_BACKEND": backend, **variables}):
        for number in range(arguments.cycles):
            network = rng.choice(zoo if number % arguments.zoo == 0 else small)
            first, second = rng.sample(BATCHES, 2)
            error = cycle(network, (first, second), arguments.stock)
            worst = max(worst, error)
            if not error < TOLERANCE:
                wrong += 1
                print(f"{network.name} at batches {first}, {second}: relative error {error:.1e}", flush=True)
            minutes = (time.monotonic() - start) / 60
            ends = number + 1 == arguments.cycles or minutes > arguments.minutes
            # Just before the next large network: the memory of the last one is back by then.
            if (number + 1) % arguments.zoo == 0 or ends:
                history.append((number + 1, resident_bytes()))
            if (number + 1) % ROWS == 0 or ends:
                memory = (history[-1][1] / 1e6, allocated_bytes() / 1e6)
                row = (number + 1, minutes, *memory, programs.build_count(), wrong, worst)
                print("{:7d} {:8.1f} {:12.1f} {:13.3f} {:7d} {:6d} {:12.1e}".format(*row), flush=True)
            if ends:
                break
    growth = growth_per_cycle(history)
    grown = "too few cycles to judge memory" if growth is None else f"{growth:.0f} bytes a cycle after the warm-up"
    print(f"{grown}; {wrong} of {history[-1][0]} cycles gave wrong numbers")
    return 1 if wrong or (growth or 0) > arguments.leak else 0


def growth_per_cycle(history: list[tuple[int, int]]) -> float | None:
    """Returns how fast the smallest memory of a stretch of cycles grows after the warm-up; None without enough cycles.

    The smallest, since a large network's memory is not always back when a sample is taken.
    """
    after = [row for row in history if row[0] > WARM_UP]
    count = len(after) // 4
    if count < 5:
        return None
    first = min(after[:count], key=lambda row: row[1])
    last = min(after[-count:], key=lambda row: row[1])
    return (last[1] - first[1]) / (last[0] - first[0])


if __name__ == "__main__":
    sys.exit(main())
