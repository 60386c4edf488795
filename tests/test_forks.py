"""Forks of the process: none waits for itself, and what the child runs is right."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The first forward builds; the ones after it are still under way when the process forks.
PROGRAM = """
import os, subprocess, sys
os.environ.update(MXNET_SUBGRAPH_BACKEND="TensorRT", MXNET_TENSORRT_ENGINE="onnxruntime")
import mxnet as mx
import mxnet_trt_property

net = mx.sym.Variable("data")
for i in range(4):
    net = mx.sym.FullyConnected(net, num_hidden=512, name=f"fc{i}")
net = mx.sym.exp(mx.sym.tanh(net))
executor = net.simple_bind(mx.cpu(), grad_req="null", data=(256, 512))
assert hasattr(executor, "tensorrt")
for array in executor.arg_arrays:
    array[:] = mx.nd.random.normal(shape=array.shape) * 0.05
expected = executor.forward()[0].asnumpy()

def pending():
    for _ in range(5):
        executor.forward()

def check(count=3):
    for _ in range(count):
        assert abs(executor.forward()[0].asnumpy() - expected).max() < 1e-5

def child(status):
    if status == 0:
        print("child is done", flush=True)
    os._exit(status)
"""

PROGRAMS = {
    "fork": """
pending()
pid = os.fork()
if pid == 0:
    check()
    child(0)
assert os.waitpid(pid, 0)[1] == 0
check()
""",
    "child that ends as interpreters do": """
pending()
pid = os.fork()
if pid == 0:
    check()
    print("child is done", flush=True)
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
check()
""",
    "subprocess": """
for _ in range(20):
    pending()
    # With preexec_fn subprocess cannot take vfork(), which runs no handlers.
    subprocess.run([sys.executable, "-S", "-c", ""], preexec_fn=lambda: None, check=True)
check()
print("child is done")
""",
    "executor that is freed meanwhile": """
other = net.simple_bind(mx.cpu(), grad_req="null", data=(256, 512))
other.forward()
pending()
del other
pid = os.fork()
if pid == 0:
    child(0)
assert os.waitpid(pid, 0)[1] == 0
check()
executor = None
mx.nd.waitall()
assert not mxnet_trt_property.reports(), mxnet_trt_property.reports()
""",
    "multiprocessing": """
import multiprocessing
pending()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, 2]) == [1, 2]
check()
print("child is done")
""",
    "data loader": """
import numpy
pending()
data = mx.gluon.data.ArrayDataset(numpy.arange(12, dtype="float32").reshape(6, 2))
loader = mx.gluon.data.DataLoader(data, batch_size=2, num_workers=2)
for epoch in range(2):
    pending()
    assert sum(batch.asnumpy().sum() for batch in loader) == 66
check()
print("child is done")
""",
    "new executor in the child": """
pid = os.fork()
if pid == 0:
    second = net.simple_bind(mx.cpu(), grad_req="null", data=(256, 512))
    second.copy_params_from(executor.arg_dict)
    assert hasattr(second, "tensorrt")
    assert abs(second.forward()[0].asnumpy() - expected).max() < 1e-5
    child(0)
assert os.waitpid(pid, 0)[1] == 0
""",
    "compiled model": """
from mxnet_trt_property.errors import EngineError
parameters = {k: v for k, v in executor.arg_dict.items() if k != "data"}
data = executor.arg_dict["data"]
model = mxnet_trt_property.compile(net, parameters, {}, {"data": data.shape}, engine="onnxruntime")
model(data)
bound = model.bind(data)
bound(), bound()
pid = os.fork()
if pid == 0:
    for call in (lambda: model(data), bound, lambda: model.bind(data)):
        try:
            call()
        except EngineError as error:
            assert "call compile or load in the child" in str(error)
        else:
            child(1)
    again = mxnet_trt_property.compile(net, parameters, {}, {"data": data.shape}, engine="onnxruntime")
    assert abs(again(data).asnumpy() - expected).max() < 1e-5
    print("child is done", flush=True)
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert abs(model(data).asnumpy() - expected).max() < 1e-5
""",
    "failed operation": """
broken = mx.nd.ones((2, 2))
mx.nd.random.normal(shape=(2,), scale=-1, out=mx.nd.empty((2,)))  # fails in MXNet's engine
pid = os.fork()
if pid == 0:
    child(0)
assert os.waitpid(pid, 0)[1] == 0
check()
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_fork(name: str) -> None:
    code = PROGRAM + PROGRAMS[name]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "child is done", done.stdout
    if name == "failed operation":
        assert "had failed before this process forked" in done.stderr
    else:
        assert "Error" not in done.stderr
