"""The inference of TensorRT nodes: ours answers what MXNet's own does, loses no memory, and gives way to it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

if platform.machine() != "x86_64":
    pytest.skip("MXNet's wheels for other machines keep MXNet's own inference", allow_module_level=True)

# One process that has MXNet's own inference first and ours then: nothing but the functions differs.
PROGRAM = """
import ctypes, gc, json, logging, os, re, sys, threading
import mxnet_trt_property
import mxnet as mx
from mxnet_trt_property import native, subgraph_inference
from mxnet_trt_property import backend as package_backend
from tests.symbols import backend, conv_bn

replace = subgraph_inference.replace
subgraph_inference.replace = lambda library: None
package_backend.load_native()

def partitioned(symbol, **shapes):
    with backend("TensorRT", MXNET_TENSORRT_MIN_SUBGRAPH_SIZE="1", MXNET_TENSORRT_EXCLUDE_OPS="elemwise_add"):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    assert "_TensorRT" in executor.tensorrt.made.symbol.tojson()
    return executor.tensorrt.made.symbol

data = mx.sym.Variable("data")
volume = mx.sym.relu(mx.sym.Convolution(data, kernel=(3, 3, 3), num_filter=2, name="conv"))
six = mx.sym.relu(mx.sym.broadcast_add(data, mx.sym.Variable("b")))
backward = mx.sym.elemwise_add(mx.sym.relu(data), mx.sym.relu(mx.sym.Variable("b")))  # from outputs to inputs, too
several = mx.sym.Group([mx.sym.relu(data), mx.sym.gammaln(mx.sym.relu(data) + 1), mx.sym.split(data, num_outputs=3)])
NETWORKS = [
    (partitioned(conv_bn(), data=(2, 3, 8, 8)), dict(data=(2, 3, 8, 8)), "conv_weight"),
    (partitioned(volume, data=(1, 2, 5, 5, 5)), dict(data=(1, 2, 5, 5, 5)), "conv_weight"),
    (partitioned(six, data=(1, 2, 3, 1, 2, 3), b=(2, 2, 3, 4, 2, 3)),
     dict(data=(1, 2, 3, 1, 2, 3), b=(2, 2, 3, 4, 2, 3)), "b"),
    (partitioned(backward, data=(2, 3), b=(2, 3)), dict(data=(2, 3)), "b"),
    (partitioned(several, data=(2, 3)), dict(data=(2, 3)), "data"),
]

def ask(function, *arguments, **named):
    try:
        return repr(function(*arguments, **named))
    except Exception as error:
        words = str(error).split("Stack trace")[0]
        return type(error).__name__ + ": " + re.sub(r"\\[\\d\\d:\\d\\d:\\d\\d\\]", "", words)

def bind(symbol, **named):
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", **named)
    return [a.shape for a in executor.arg_arrays + executor.aux_arrays], [o.dtype for o in executor.outputs]

def answers():
    found = []
    for symbol, shapes, other in NETWORKS:
        shape = shapes["data"]
        for open_ in (shapes, {}, {**shapes, "data": (0, *shape[1:])}, {**shapes, "data": (0,) * len(shape)}):
            found += [ask(symbol.infer_shape, **open_), ask(symbol.infer_shape_partial, **open_)]
        for wrong in ({"data": (2,)}, {other: (1, 7)}, {other: (7,) * 9}):
            found += [ask(symbol.infer_shape, **{**shapes, **wrong}), ask(bind, symbol, **{**shapes, **wrong})]
        for dtypes in ({}, {"data": "float16"}, {other: "float64"}, {"data": "float16", other: "float64"}):
            found += [ask(symbol.infer_type, **dtypes), ask(symbol.infer_type_partial, **dtypes)]
            found.append(ask(bind, symbol, type_dict=dtypes, **shapes))
        found.append(ask(bind, symbol, stype_dict={"data": "row_sparse"}, **shapes))
        with mx.util.np_shape(True):
            for open_ in ((-1, *shape[1:]), (0, *shape[1:]), (), (-1,) * len(shape)):
                found.append(ask(symbol.infer_shape_partial, **{**shapes, "data": open_}))
                found.append(ask(symbol.infer_shape, **{**shapes, "data": open_}))
    return found

def answers_of_threads():
    found = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: answers()})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return list(found.values())

deep = data
for layer in range(100):
    deep = mx.sym.FullyConnected(deep, num_hidden=2, name=f"layer{layer}")
deep = partitioned(deep, data=(1, 2))

def lost_bytes():
    \"\"\"Returns by how much the memory grows at each inference of shapes and dtypes of a node with 201 inputs.\"\"\"
    def resident():
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    def infer(count):
        for _ in range(count):
            deep.infer_shape(data=(1, 2))
            deep.infer_type(data="float32")
        return resident()
    before = infer(100)
    return (infer(400) - before) / 400

record = {"answers": {}, "lost": {}, "problems": {}}

def look(name, threads=False):
    record["problems"][name] = subgraph_inference.problem()
    record["answers"][name] = answers_of_threads() if threads else [answers()]

def replace_with(**changed):
    kept = {name: getattr(subgraph_inference, name) for name in changed}
    for name, value in changed.items():
        setattr(subgraph_inference, name, value)
    replace(native.library())
    for name, value in kept.items():
        setattr(subgraph_inference, name, value)

record["lost"]["mxnet"] = lost_bytes()
look("mxnet")
replace_with(MXNET_VERSION=10900)
look("version")
replace_with(_STRING_NEW="_no_such_name")
look("name")
replace_with(EXAMPLE=b"_CachedOp")
look("layout")
replace_with(OPERATOR=b"FullyConnected")
look("functions")
record["lost"]["refused"] = lost_bytes()
logging.basicConfig(level=logging.DEBUG, format="%(message)s", force=True)
replace_with()
logging.disable()
look("ours")
look("ours on threads", threads=True)
record["lost"]["ours"] = lost_bytes()
child = os.fork()
if child == 0:
    os._exit(0 if answers() == record["answers"]["ours"][0] else 1)
record["child"] = os.waitpid(child, 0)[1]
replace_with()
look("ours, again")
with open(sys.argv[1], "w") as file:  # MXNet writes to stdout
    json.dump(record, file)
"""


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("MXNET_")}
    variables.update(PYTHONPATH=str(ROOT), MXNET_SUBGRAPH_VERBOSE="0")
    file = tmp_path_factory.mktemp("inference") / "record.json"
    command = [sys.executable, "-c", PROGRAM, str(file)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return {**json.loads(file.read_text(encoding="utf-8")), "log": done.stderr}


def test_ours_is_in_use(record: dict[str, Any]) -> None:
    assert record["problems"]["ours"] is None
    assert "without the memory that MXNet's inference loses" in record["log"]
    assert record["problems"]["ours, again"] is None


def test_every_answer_is_that_of_mxnet(record: dict[str, Any]) -> None:
    (expected,) = record["answers"]["mxnet"]
    for words in (
        "Shape inconsistent, Provided = [1,7]",
        "requires uniform type",
        "Incompatible attr",
        "could not be br",
    ):
        assert any(words in answer for answer in expected), f"no case of '{words}'"
    assert sum("Error" not in answer for answer in expected) > 50
    for name, found in record["answers"].items():
        assert len(found) == (4 if "threads" in name else 1)
        for answers in found:
            assert answers == expected, name
    assert record["child"] == 0, "a forked child gave other answers"


def test_no_memory_is_lost(record: dict[str, Any]) -> None:
    # A shape is 40 bytes and a dtype 4.
    assert record["lost"]["mxnet"] > 201 * 40
    assert record["lost"]["refused"] > 201 * 40
    assert record["lost"]["ours"] < 1000, "what is left is less than a heap's fragments at 400 inferences"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("version", "MXNet's version number is 10901, not 10900"),
        ("name", "libmxnet was built by another compiler than expected; it has no _no_such_name"),
        ("layout", "MXNet's functions of inference are laid out in another way"),
        ("functions", "something else has replaced MXNet's functions of inference"),
    ],
)
def test_anything_unexpected_leaves_it_as_it_is(record: dict[str, Any], name: str, words: str) -> None:
    """The answers are those of MXNet, as of all others; and the reason is told."""
    assert record["problems"][name] == words
