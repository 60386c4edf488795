"""Threads, spawned processes, MXNet's engine types, the order of imports, and the end of the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from tests.symbols import backend, bound, conv_bn, random_arrays, relative_error, split_net, taken_nodes

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (2, 3, 8, 8)


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a program with TensorRT on."""
    environment = {**os.environ, "MXNET_SUBGRAPH_BACKEND": "TensorRT", "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=200
    )


# ---- threads ----


@pytest.mark.parametrize("symbol", [conv_bn(), split_net()], ids=["one node", "two nodes"])
def test_executors_on_many_threads(symbol: Any) -> None:
    """Each thread binds, runs, reshapes and frees executors of its own while the others do."""
    shape = SHAPE if "conv_weight" in symbol.list_arguments() else (2, 5)
    small = (1, *shape[1:])
    batches = {s: mx.nd.array(np.random.default_rng(s[0]).standard_normal(s)) for s in (shape, small)}
    stock = bound(symbol, "NONE", {"data": shape})
    expected = {shape: stock.forward(data=batches[shape])[0].asnumpy()}
    with backend("NONE"):
        expected[small] = stock.reshape(partial_shaping=True, data=small).forward(data=batches[small])[0].asnumpy()
    errors: list[Any] = []
    rounds = 6

    def work() -> None:
        try:
            for _ in range(rounds):
                executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=shape)
                for name, array in random_arrays(symbol, {"data": shape}).items():
                    {**executor.arg_dict, **executor.aux_dict}[name][:] = array
                assert taken_nodes(executor)
                for size in (shape, small, shape):
                    if executor.arg_dict["data"].shape != size:
                        executor = executor.reshape(partial_shaping=True, allow_up_sizing=True, data=size)
                    found = executor.forward(data=batches[size])[0]
                    assert relative_error(found, mx.nd.array(expected[size])) < 1e-5
        except BaseException as error:
            errors.append(error)

    with backend("TensorRT"):
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors, errors[0]


def test_the_native_environment_is_restored_whatever_threads_bind() -> None:
    code = """
import ctypes, os, threading, mxnet as mx
os.environ["MXNET_SUBGRAPH_VERBOSE"] = "0"
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
nets = [mx.sym.tanh(mx.sym.exp(mx.sym.Variable("data")))]
nets.append(mx.sym.gammaln(nets[0]))
def work(net):
    for _ in range(20):
        net.simple_bind(mx.cpu(), grad_req="null", data=(2, 2)).forward()[0].wait_to_read()
threads = [threading.Thread(target=work, args=(nets[i % 2],)) for i in range(4)]
[t.start() for t in threads], [t.join() for t in threads]
assert getenv(b"MXNET_SUBGRAPH_BACKEND") == b"TensorRT"
assert os.environ["MXNET_SUBGRAPH_BACKEND"] == "TensorRT"
del os.environ["MXNET_SUBGRAPH_BACKEND"]
nets[0].simple_bind(mx.cpu(), grad_req="null", data=(2, 2))
assert getenv(b"MXNET_SUBGRAPH_BACKEND") is None
os.environ["MXNET_USE_TENSORRT"] = "1"
assert hasattr(nets[0].simple_bind(mx.cpu(), grad_req="null", data=(2, 2)), "tensorrt")
assert getenv(b"MXNET_SUBGRAPH_BACKEND") is None
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


# ---- processes and engine types ----

PROGRAM = """
import mxnet as mx, numpy as np
def compute(seed):
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=4, name="fc")
    net = mx.sym.gammaln(mx.sym.exp(mx.sym.tanh(net)))
    executor = net.simple_bind(mx.cpu(), grad_req="null", data=(2, 3))
    rng = np.random.default_rng(seed)
    for array in executor.arg_arrays:
        array[:] = rng.standard_normal(array.shape)
    return hasattr(executor, "tensorrt"), executor.forward()[0].asnumpy()
"""


@pytest.mark.parametrize("engine", ["NaiveEngine", "ThreadedEngine", "ThreadedEnginePerDevice"])
def test_engine_types(engine: str, tmp_path: Path) -> None:
    results = []
    for name in ("NONE", "TensorRT"):
        code = PROGRAM + f"taken, found = compute(1); assert taken == ({name!r} == 'TensorRT')\n"
        code += f"np.save({str(tmp_path / name)!r}, found)"
        done = run(code, MXNET_ENGINE_TYPE=engine, MXNET_SUBGRAPH_BACKEND=name)
        assert done.returncode == 0, done.stderr
        results.append(np.load(tmp_path / f"{name}.npy"))
    assert np.allclose(results[1], results[0], rtol=1e-5)


def test_spawned_processes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        PROGRAM
        + """
import multiprocessing
if __name__ == "__main__":
    here = [compute(seed) for seed in range(4)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        there = pool.map(compute, range(4))
    for (taken, a), (also, b) in zip(here, there):
        assert taken and also and np.array_equal(a, b)
"""
    )
    environment = {**os.environ, "MXNET_SUBGRAPH_BACKEND": "TensorRT", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr


# ---- the end, and the beginning ----

ENDS = {
    "work in flight": "",
    "sys.exit": "import sys; sys.exit(0)",
    "executor in a cycle": "ring = [executor]; ring.append(ring); del executor",
    "executor held by a module": "import mxnet_trt_property; mxnet_trt_property.kept = executor",
    "in a thread": "import threading; t = threading.Thread(target=lambda: executor.forward()); t.start()",
    "after waitall": "mx.nd.waitall()",
    "exception in atexit": "import atexit; atexit.register(lambda: executor.forward()[0].wait_to_read())",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_ends(end: str) -> None:
    code = """
import mxnet as mx
net = mx.sym.Variable("data")
for i in range(4):
    net = mx.sym.FullyConnected(net, num_hidden=256, name=f"fc{i}")
executor = net.simple_bind(mx.cpu(), grad_req="null", data=(64, 256))
assert hasattr(executor, "tensorrt")
executor.forward()[0].wait_to_read()
for _ in range(20):
    executor.forward()
"""
    done = run(code + ENDS[end])
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr, done.stderr


ORDERS = {
    "before": "import mxnet_trt_property, mxnet as mx",
    "after": "import mxnet as mx, mxnet_trt_property",
    "twice": "import mxnet_trt_property, importlib, mxnet as mx; importlib.reload(mxnet_trt_property)",
    "reloaded with its modules": (
        "import sys, mxnet_trt_property, mxnet as mx\n"
        "from mxnet_trt_property import activation\n"
        "activation.install(); activation.install()\n"
    ),
    "not at all": "import mxnet as mx",
    "in a thread": (
        "import threading\n"
        "t = threading.Thread(target=lambda: __import__('mxnet_trt_property')); t.start()\n"
        "import mxnet as mx; t.join()"
    ),
}


@pytest.mark.parametrize("order", ORDERS)
def test_imports(order: str) -> None:
    code = ORDERS[order] + "\n" + PROGRAM + "taken, found = compute(1); assert taken; assert np.isfinite(found).all()"
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr


def test_mxnet_is_missing() -> None:
    code = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mxnet":
            raise ModuleNotFoundError("No module named 'mxnet'", name="mxnet")
sys.meta_path.insert(0, Hidden())
import mxnet_trt_property
from mxnet_trt_property import settings
assert settings.backend_is_on()
try:
    import mxnet
except ModuleNotFoundError as error:
    assert error.name == "mxnet"
else:
    sys.exit(3)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
