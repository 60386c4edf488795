"""HybridBlocks: hybridize and optimize_for with the backend, what is saved of them, and training, which is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import SymbolBlock, nn

from mxnet_trt_property import infer, native, programs
from mxnet_trt_property.errors import SettingError, TrainingError
from tests.symbols import backend, relative_error

STATIC = ({}, {"static_alloc": True}, {"static_alloc": True, "static_shape": True})


def network(seed: int = 0) -> Any:
    """Returns an initialized network whose parameters have their shapes, on images of three channels."""
    mx.random.seed(seed)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"))
    net.add(nn.Dropout(0.5), nn.GlobalAvgPool2D(), nn.Dense(5))
    net.initialize(mx.init.Xavier())
    net(images(1))
    return net


def images(batch: int, size: int = 8) -> Any:
    return mx.nd.array(np.random.default_rng(batch).standard_normal((batch, 3, size, size)))


def operators(net: Any) -> list[str]:
    return [n.op for n in infer.read_symbol(net._cached_graph[1]).operators]


@pytest.mark.parametrize("static", STATIC, ids=str)
@pytest.mark.parametrize("door", ["hybridize", "optimize_for"])
def test_result_is_that_of_the_block(door: str, static: dict[str, bool]) -> None:
    net = network()
    expected = net(images(2))
    if door == "hybridize":
        net.hybridize(backend="TensorRT", **static)
    else:
        net.optimize_for(images(2), backend="TensorRT", **static)
    assert relative_error(net(images(2)), expected) < 1e-5
    assert operators(net) == ["_TensorRT"]
    net.hybridize(False)
    assert relative_error(net(images(2)), expected) == 0


@pytest.mark.parametrize("static", STATIC, ids=str)
def test_one_engine_for_each_shape(static: dict[str, bool]) -> None:
    net = network(seed=7)
    sizes = (2, 5, 1, 2, 5, 1, 2)
    expected = {n: net(images(n)) for n in sizes}
    net.hybridize(backend="TensorRT", **static)
    seen = set()
    for n in sizes:
        builds = programs.build_count()
        assert relative_error(net(images(n)), expected[n]) < 1e-5
        if n in seen and not static.get("static_shape"):
            assert programs.build_count() == builds
        seen.add(n)
    builds, calls = programs.build_count(), native.callback_count()
    for _ in range(5):
        net(images(2)).wait_to_read()
    assert programs.build_count() == builds
    if static.get("static_shape"):
        assert native.callback_count() - calls == 5


def test_shapes_at_which_other_nodes_can_be_taken() -> None:
    class Softmax(nn.HybridBlock):  # type: ignore[misc]
        def hybrid_forward(self, F: Any, x: Any) -> Any:
            return F.tanh(F.SoftmaxActivation(F.exp(x * 2)) + 1)

    net = Softmax()
    shapes = ((2, 6), (3, 6), (2, 3, 4), (2, 6), (2, 3, 4), (5, 3, 4), (3, 6))
    data = {s: mx.nd.array(np.random.default_rng(s[0]).standard_normal(s)) for s in shapes}
    expected = {s: net(x) for s, x in data.items()}
    net.hybridize(backend="TensorRT")
    taken = []
    for shape in shapes:
        assert relative_error(net(data[shape]), expected[shape]) < 1e-5
        taken.append("SoftmaxActivation" not in operators(net))
    assert taken == [len(shape) == 2 for shape in shapes], "with three axes it is left to MXNet"


@pytest.mark.parametrize("static", STATIC, ids=str)
def test_parameters_that_change_later(static: dict[str, bool], tmp_path: Path) -> None:
    net, other = network(), network(seed=1)
    net.hybridize(backend="TensorRT", **static)
    before = net(images(2)).asnumpy()
    for parameter in net.collect_params().values():
        parameter.set_data(parameter.data() * 0.5 + 0.1)
    net.save_parameters(str(tmp_path / "net.params"))
    other.load_parameters(str(tmp_path / "net.params"))
    assert relative_error(net(images(2)), other(images(2))) < 1e-5
    assert not np.allclose(net(images(2)).asnumpy(), before)
    third = network(seed=2)
    third.save_parameters(str(tmp_path / "third.params"))
    net.load_parameters(str(tmp_path / "third.params"))
    assert relative_error(net(images(2)), third(images(2))) < 1e-5


def test_export_and_import_in_a_new_process(tmp_path: Path) -> None:
    net = network()
    expected = net(images(2)).asnumpy()
    net.optimize_for(images(2), backend="TensorRT")
    net.export(str(tmp_path / "net"))
    np.savez(tmp_path / "arrays.npz", data=images(2).asnumpy(), expected=expected)
    code = f"""
import pickle, numpy as np, mxnet as mx
folder = {str(tmp_path)!r}
arrays = np.load(folder + "/arrays.npz")
block = mx.gluon.SymbolBlock.imports(folder + "/net-symbol.json", ["data"], folder + "/net-0000.params")
found = block(mx.nd.array(arrays["data"])).asnumpy()
assert np.allclose(found, arrays["expected"], rtol=1e-5), found
assert '"_TensorRT"' in block._cached_graph[1].tojson()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_pickled_symbol_is_read_in_a_new_process(tmp_path: Path) -> None:
    import pickle

    net = network()
    net.optimize_for(images(2), backend="TensorRT")
    (tmp_path / "symbol.pickle").write_bytes(pickle.dumps(net._cached_graph[1]))
    code = f"""
import pickle, mxnet
symbol = pickle.load(open({str(tmp_path / "symbol.pickle")!r}, "rb"))
assert "data" in symbol.list_arguments()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:Cannot decide type:UserWarning")
def test_symbol_block(tmp_path: Path) -> None:
    net = network()
    net.hybridize()
    expected = net(images(2))
    net.export(str(tmp_path / "net"))
    prefix = str(tmp_path / "net")
    block = SymbolBlock.imports(f"{prefix}-symbol.json", ["data"], f"{prefix}-0000.params")
    for _ in range(2):  # the second time there is a TensorRT node in the graph already
        block.hybridize(backend="TensorRT")
        assert relative_error(block(images(2)), expected) < 1e-5
        assert operators(block) == ["_TensorRT"]
        assert relative_error(block(images(3)), net(images(3))) < 1e-5


class TwoHeads(nn.HybridBlock):  # type: ignore[misc]
    """A block of blocks with an optional second input and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.HybridSequential()
        self.body.add(nn.Dense(6, activation="tanh"), nn.Dense(4))
        self.head = nn.Dense(3, activation="relu")

    def hybrid_forward(self, F: Any, x: Any, y: Any = None) -> Any:
        hidden = self.body(x)
        return self.head(hidden), hidden if y is None else hidden + y


@pytest.mark.parametrize("second", [False, True])
def test_nested_blocks(second: bool) -> None:
    net = TwoHeads()
    net.initialize()
    inputs = [mx.nd.ones((2, 5)), mx.nd.ones((2, 4)) * 3][: 1 + second]
    expected = net(*inputs)
    net.hybridize(backend="TensorRT")
    for found, right in zip(net(*inputs), expected):
        assert relative_error(found, right) < 1e-5
    assert operators(net) == ["_TensorRT"]


def test_a_child_alone() -> None:
    net = TwoHeads()
    net.initialize()
    expected = net(mx.nd.ones((2, 5)))
    net.body.hybridize(backend="TensorRT")
    for found, right in zip(net(mx.nd.ones((2, 5))), expected):
        assert relative_error(found, right) < 1e-5
    assert operators(net.body) == ["_TensorRT"]


@pytest.fixture
def numpy_arrays() -> Iterator[None]:
    mx.npx.set_np()
    yield
    mx.npx.reset_np()


@pytest.mark.parametrize("static", STATIC, ids=str)
def test_numpy_blocks(numpy_arrays: None, static: dict[str, bool], tmp_path: Path) -> None:
    net = nn.HybridSequential()
    net.add(nn.Dense(6, activation="relu"), nn.Dense(4))
    net.initialize()
    data = {n: mx.np.random.normal(size=(n, 5)) for n in (2, 3)}
    expected = {n: net(x) for n, x in data.items()}
    net.hybridize(backend="TensorRT", **static)
    for n, x in data.items():
        found = net(x)
        assert isinstance(found, mx.np.ndarray)
        assert np.allclose(found.asnumpy(), expected[n].asnumpy(), rtol=1e-5, atol=1e-6)
    assert operators(net) == ["_TensorRT"]
    net.export(str(tmp_path / "net"))
    block = SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    assert np.allclose(block(data[2]).asnumpy(), expected[2].asnumpy(), rtol=1e-5, atol=1e-6)


# ---- options ----


@pytest.mark.parametrize("nested", [False, True])
def test_options(nested: bool) -> None:
    options = {"exclude_ops": "Activation", "min_subgraph_size": 1}
    given: dict[str, Any] = {"backend_opts": options} if nested else options
    expected = network()(images(2))
    for door in ("hybridize", "optimize_for"):
        net = network()
        if door == "hybridize":
            net.hybridize(backend="TensorRT", **given)
        else:
            net.optimize_for(images(2), backend="TensorRT", **given)
        assert relative_error(net(images(2)), expected) < 1e-5
        assert operators(net) == ["_TensorRT", "Activation", "_TensorRT"]
    symbol = network()(mx.sym.Variable("data")).optimize_for("TensorRT", shape_dict={"data": (2, 3, 8, 8)}, **given)
    assert [n.op for n in infer.read_symbol(symbol).operators] == ["_TensorRT", "Activation", "_TensorRT"]


def test_the_tutorials_keyword() -> None:
    net = network()
    expected = net(images(2))
    net.optimize_for(images(2), backend="TensorRT", backend_opts={"precision": "fp32"})
    assert relative_error(net(images(2)), expected) < 1e-5
    with pytest.raises(SettingError, match="colour"):
        network().optimize_for(images(2), backend="TensorRT", backend_opts={"colour": "red"})
    with pytest.raises(SettingError, match="a dictionary of options"):
        network().optimize_for(images(2), backend="TensorRT", backend_opts="fp32")


# ---- training ----


@pytest.mark.parametrize("train_mode", [True, False])
@pytest.mark.parametrize("called_before", [True, False])
def test_recording_is_refused_at_once(train_mode: bool, called_before: bool) -> None:
    net = network()
    expected = net(images(2))
    net.hybridize(backend="TensorRT")
    if called_before:
        net(images(2))
    with autograd.record(train_mode=train_mode), pytest.raises(TrainingError, match=r"autograd.record.*have gradients"):
        net(images(2))
    assert relative_error(net(images(2)), expected) < 1e-5
    # An input of autograd's graph is no better than a parameter.
    net.collect_params().setattr("grad_req", "null")
    data = images(2)
    data.attach_grad()
    with autograd.record(train_mode=train_mode), pytest.raises(TrainingError, match="inputs of autograd"):
        net(data * 2)
    net.hybridize()
    with autograd.record():
        net(data * 2).sum().backward()
    assert np.abs(data.grad.asnumpy()).max() > 0


def test_a_block_with_fixed_parameters_can_feed_one_that_learns() -> None:
    net, head = network(), nn.Dense(2)
    head.initialize()
    net.collect_params().setattr("grad_req", "null")
    gradients = []
    for name in (None, "TensorRT"):
        net.hybridize(backend=name)
        with autograd.record(train_mode=False):
            loss = head(net(images(2))).sum()
        loss.backward()
        gradients.append(head.weight.grad().asnumpy())
    assert np.allclose(gradients[1], gradients[0], rtol=1e-5)
    assert np.abs(gradients[0]).max() > 0


def test_training_mode_without_gradients_warns(caplog: pytest.LogCaptureFixture, fresh_warnings: None) -> None:
    net = network()
    expected = net(images(2))
    net.hybridize(backend="TensorRT")
    for _ in range(2):
        with autograd.train_mode():
            assert relative_error(net(images(2)), expected) < 1e-5
    assert sum("in training mode" in r.message for r in caplog.records) == 1


# ---- the variable ----


def test_plain_hybridize_is_left_alone_by_the_variable() -> None:
    """MXNet reads the variable in its executors only: a CachedOp never knew of it, and still does not."""
    results = []
    for name in (None, "TensorRT"):
        net = network()
        with backend(name):
            net.hybridize()
            output = net(images(2)).asnumpy()
            with autograd.record():
                loss = net(images(2)).sum()
            loss.backward()
            assert "_TensorRT" not in operators(net)
        results.append((output, net[0].weight.grad().asnumpy()))
    assert np.array_equal(results[0][0], results[1][0])
    assert results[0][1].shape == results[1][1].shape
