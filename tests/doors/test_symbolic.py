"""simple_bind, bind, and all that an executor can be asked: as without the plugin, with TensorRT nodes inside."""

from __future__ import annotations

import re
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from tests.symbols import (
    BACKENDS,
    assert_same,
    backend,
    bound,
    conv_bn,
    fill,
    mlp,
    pair,
    random_arrays,
    relative_error,
    split_net,
    taken_nodes,
)

SHAPE = (2, 3, 8, 8)


@pytest.fixture(autouse=True)
def _every_node_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MIN_SUBGRAPH_SIZE", "1")


# ---- what comes back ----


@pytest.mark.parametrize("symbol", [mlp(), conv_bn(), split_net()], ids=["mlp", "conv_bn", "split"])
def test_simple_bind_looks_like_stock(symbol: Any) -> None:
    shapes = {"data": SHAPE if "conv_weight" in symbol.list_arguments() else (2, 5)}
    stock, ours = bound(symbol, "NONE", shapes), bound(symbol, "TensorRT", shapes)
    assert taken_nodes(ours)
    assert isinstance(ours, mx.executor.Executor)
    assert list(ours.arg_dict) == list(stock.arg_dict)
    assert list(ours.aux_dict) == list(stock.aux_dict)
    assert [a.shape for a in ours.arg_arrays] == [a.shape for a in stock.arg_arrays]
    assert [a.dtype for a in ours.arg_arrays] == [a.dtype for a in stock.arg_arrays]
    assert ours.grad_arrays == stock.grad_arrays
    expected = stock.forward()
    found = ours.forward()
    assert list(ours.output_dict) == list(stock.output_dict)
    assert relative_error(found[0], expected[0]) < 1e-5
    data = mx.nd.array(np.random.default_rng(1).standard_normal(shapes["data"]))
    assert relative_error(ours.forward(data=data)[0], stock.forward(data=data)[0]) < 1e-5
    assert len(ours.outputs) == len(stock.outputs)


@pytest.mark.parametrize("as_list", [True, False])
def test_bind(as_list: bool) -> None:
    symbol = conv_bn()
    arrays = random_arrays(symbol, {"data": SHAPE})
    arguments: Any = {k: arrays[k] for k in symbol.list_arguments()}
    auxiliary: Any = {k: arrays[k] for k in symbol.list_auxiliary_states()}
    if as_list:
        arguments, auxiliary = list(arguments.values()), list(auxiliary.values())
    with backend("NONE"):
        stock = symbol.bind(mx.cpu(), arguments, grad_req="null", aux_states=auxiliary)
    with backend("TensorRT"):
        ours = symbol.bind(mx.cpu(), arguments, grad_req="null", aux_states=auxiliary)
    assert taken_nodes(ours)
    assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5
    assert all(a is b for a, b in zip(ours.arg_arrays, stock.arg_arrays))
    assert ours.grad_arrays == stock.grad_arrays


def test_bind_without_gradient_arrays_is_inference() -> None:
    symbol = mlp()
    arrays = random_arrays(symbol, {"data": (2, 5)})
    with backend("TensorRT"):
        executor = symbol.bind(mx.cpu(), arrays)
        assert taken_nodes(executor)
        result = symbol.eval(mx.cpu(), **arrays)
    assert relative_error(result[0], executor.forward()[0]) == 0


def test_wrong_calls_fail_as_stock_ones() -> None:
    symbol = mlp()
    arrays = random_arrays(symbol, {"data": (2, 5)})
    arrays.pop("fc1_weight")
    for name in ("NONE", "TensorRT"):
        with backend(name):
            with pytest.raises(ValueError, match="fc1_weight"):
                symbol.bind(mx.cpu(), arrays)
            with pytest.raises(RuntimeError, match="simple_bind error"):
                symbol.simple_bind(mx.cpu(), grad_req="null", data=(2, 5), fc1_weight=(1, 1))
            with pytest.raises(TypeError):
                symbol.simple_bind()


# ---- arrays that are shared ----


def test_shared_arguments_of_two_executors() -> None:
    results = []
    for name in BACKENDS:
        first = bound(mlp(), name, {"data": (4, 5)})
        weights = [n for n in mlp().list_arguments() if n != "data"]
        with backend(name):
            second = mlp().simple_bind(
                mx.cpu(), grad_req="null", data=(4, 5), shared_exec=first, shared_arg_names=weights
            )
        data = mx.nd.array(np.random.default_rng(1).standard_normal((4, 5)))
        first.forward(data=data)[0].wait_to_read()
        second.forward(data=data)[0].wait_to_read()
        first.arg_dict["fc1_weight"][:] *= 0.5
        results.append((second.forward(data=data)[0].asnumpy(), first.forward(data=data)[0].asnumpy()))
        assert bool(taken_nodes(second)) == (name == "TensorRT")
    for found, expected in zip(results[1], results[0]):
        assert relative_error(found, expected) < 1e-5


def test_shared_buffer() -> None:
    buffers: list[dict[str, Any]] = []
    executors = []
    for name in BACKENDS:
        buffer: dict[str, Any] = {}
        with backend(name):
            first = mlp().simple_bind(mx.cpu(), grad_req="null", data=(4, 5), shared_buffer=buffer)
            fill(first, random_arrays(mlp(), {"data": (4, 5)}))
            smaller = mlp().simple_bind(mx.cpu(), grad_req="null", data=(2, 5), shared_buffer=buffer)
        fill(smaller, random_arrays(mlp(), {"data": (2, 5)}))
        buffers.append(buffer)
        executors.append((first, smaller))
    assert buffers[0].keys() == buffers[1].keys()
    assert {k: v.shape for k, v in buffers[0].items()} == {k: v.shape for k, v in buffers[1].items()}
    assert_same(executors[1][1], executors[0][1])
    assert relative_error(executors[1][0].arg_dict["data"], executors[0][0].arg_dict["data"]) == 0
    assert_same(executors[1][0], executors[0][0])


def test_two_executors_on_the_same_arrays() -> None:
    symbol = conv_bn()
    arrays = random_arrays(symbol, {"data": SHAPE})
    auxiliary = {k: arrays.pop(k) for k in symbol.list_auxiliary_states()}
    executors = []
    for name in (*BACKENDS, "TensorRT"):
        with backend(name):
            executors.append(symbol.bind(mx.cpu(), arrays, grad_req="null", aux_states=auxiliary))
    stock, first, second = executors
    assert_same(first, stock)
    assert_same(second, stock)
    auxiliary["bn_moving_var"][:] *= 3
    arrays["fc_bias"][:] += 1
    arrays["data"][:] *= -1
    assert_same(second, stock)
    assert_same(first, stock)


def test_shared_exec_of_bind() -> None:
    results = []
    for name in BACKENDS:
        arrays = [random_arrays(mlp(), {"data": (n, 5)}) for n in (4, 2)]
        with backend(name):
            first = mlp().bind(mx.cpu(), arrays[0], grad_req="null")
            second = mlp().bind(mx.cpu(), arrays[1], grad_req="null", shared_exec=first)
        assert bool(taken_nodes(second)) == (name == "TensorRT")
        results.append([e.forward()[0].asnumpy() for e in (first, second)])
    for found, expected in zip(*results):
        assert relative_error(expected, found) < 1e-5


# ---- what bind takes for gradients ----


@pytest.mark.parametrize("args_grad", [None, {}, [None] * 5, {"other": None}], ids=repr)
@pytest.mark.parametrize("grad_req", ["write", "add", "null", ["write"] * 5, {"data": "add"}], ids=repr)
def test_bind_without_gradient_arrays(args_grad: Any, grad_req: Any) -> None:
    arrays = random_arrays(mlp(), {"data": (2, 5)})
    executors = []
    for name in BACKENDS:
        with backend(name):
            executors.append(mlp().bind(mx.cpu(), arrays, args_grad=args_grad, grad_req=grad_req))
    stock, ours = executors
    assert taken_nodes(ours)
    assert ours.grad_arrays == stock.grad_arrays
    assert_same(ours, stock)


def test_bind_with_gradient_arrays_trains() -> None:
    results = []
    for name in BACKENDS:
        arrays = random_arrays(mlp(), {"data": (2, 5)})
        gradient = {"fc1_weight": mx.nd.zeros((8, 5))}
        with backend(name):
            executor = mlp().bind(mx.cpu(), arrays, args_grad=gradient)
        executor.forward(is_train=True)
        executor.backward(mx.nd.ones((2, 3)))
        assert executor.grad_dict["fc1_weight"] is gradient["fc1_weight"]
        results.append(gradient["fc1_weight"].asnumpy())
    assert np.abs(results[0]).max() > 0
    assert np.array_equal(*results)


@pytest.mark.parametrize(
    "wrong",
    [
        {"grad_req": "sometimes"},
        {"args_grad": [None]},
        {"args_grad": {"fc1_weight": None}},
        {"args": [mx.nd.ones((2, 5))]},
        {"args": {"data": mx.nd.ones((2, 5))}},
        {"ctx": "cpu"},
        {"grad_req": {"data": "often"}},
    ],
    ids=lambda w: next(iter(w.items()))[0] + repr(next(iter(w.values())))[:12],
)
def test_wrong_arguments_of_bind_are_told_as_by_stock(wrong: dict[str, Any]) -> None:
    errors = []
    for name in BACKENDS:
        arguments = {"ctx": mx.cpu(), "args": random_arrays(mlp(), {"data": (2, 5)}), **wrong}
        with backend(name), pytest.raises((ValueError, TypeError, KeyError)) as caught:
            mlp().bind(**arguments)
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1]


def test_group2ctx_is_left_to_mxnet() -> None:
    with mx.AttrScope(ctx_group="first"):
        net = mx.sym.tanh(mx.sym.Variable("data"))
    with mx.AttrScope(ctx_group="second"):
        net = mx.sym.exp(net * mx.sym.Variable("scale"))
    executors = []
    for name in BACKENDS:
        with backend(name):
            executors.append(
                net.simple_bind(
                    mx.cpu(),
                    grad_req="null",
                    group2ctx={"first": mx.cpu(0), "second": mx.cpu(1)},
                    data=(2, 5),
                    scale=(2, 5),
                )
            )
        fill(executors[-1], random_arrays(net, {"data": (2, 5), "scale": (2, 5)}))
    assert not taken_nodes(executors[1])
    assert np.array_equal(*(e.forward()[0].asnumpy() for e in executors))


# ---- forward, reshape, parameters ----


@pytest.mark.parametrize("kind", ["ndarray", "numpy", "float64", "int32", "view"])
def test_data_given_to_forward(kind: str) -> None:
    stock, ours = pair(mlp(), {"data": (2, 5)})
    values = np.random.default_rng(3).standard_normal((4, 5)).astype("float32") * 10
    given = {
        "ndarray": lambda: mx.nd.array(values[:2]),
        "numpy": lambda: values[:2],
        "float64": lambda: values[:2].astype("float64"),
        "int32": lambda: mx.nd.array(values[:2], dtype="int32"),
        "view": lambda: mx.nd.array(values)[1:3],
    }[kind]()
    assert_same(ours, stock, data=given)
    assert_same(ours, stock)
    assert_same(ours, stock, fc1_bias=mx.nd.ones((8,)), data=given)


@pytest.mark.parametrize("wrong", [{"data": [[1.0]]}, {"other": mx.nd.ones((2, 5))}, {"data": mx.nd.ones((3, 5))}])
def test_wrong_data_is_told_as_by_stock(wrong: dict[str, Any]) -> None:
    errors = []
    for executor in pair(mlp(), {"data": (2, 5)}):
        with pytest.raises((ValueError, TypeError)) as caught:
            executor.forward(**wrong)
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1]


def test_reshape_again_and_again() -> None:
    executors = list(pair(conv_bn(), {"data": SHAPE}))
    for batch, size in ((1, 8), (2, 5), (7, 12), (2, 8), (1, 3)):
        for i, name in enumerate(BACKENDS):
            with backend(name):
                executors[i] = executors[i].reshape(
                    partial_shaping=True, allow_up_sizing=True, data=(batch, 3, size, size)
                )
        stock, ours = executors
        assert taken_nodes(ours)
        assert {k: v.shape for k, v in ours.arg_dict.items()} == {k: v.shape for k, v in stock.arg_dict.items()}
        data = mx.nd.array(np.random.default_rng(size).standard_normal((batch, 3, size, size)))
        assert_same(ours, stock, data=data)


def test_reshape_shares_memory_as_stock_does() -> None:
    for name in BACKENDS:
        executor = bound(mlp(), name, {"data": (4, 5)})
        with backend(name):
            smaller = executor.reshape(data=(2, 5))
        smaller.arg_dict["data"][:] = 7
        assert (executor.arg_dict["data"][:2].asnumpy() == 7).all()
        smaller.arg_dict["fc1_weight"][:] = 3
        assert (executor.arg_dict["fc1_weight"].asnumpy() == 3).all()


def test_copy_params_from() -> None:
    stock, ours = pair(conv_bn(), {"data": SHAPE})
    arrays = random_arrays(conv_bn(), {"data": SHAPE}, seed=4)
    auxiliary = {k: arrays.pop(k) for k in conv_bn().list_auxiliary_states()}
    arrays["fc_weight"] = arrays["fc_weight"].astype("float64")
    for executor in (stock, ours):
        executor.copy_params_from(arrays, auxiliary)
    assert_same(ours, stock)
    for executor in (stock, ours):
        with pytest.raises(ValueError, match="colour"):
            executor.copy_params_from({"colour": mx.nd.ones((1,))})
        executor.copy_params_from({"colour": mx.nd.ones((1,))}, allow_extra_params=True)
    assert_same(ours, stock)


def test_outputs_stay_the_same_arrays() -> None:
    for executor in pair(conv_bn(), {"data": SHAPE}):
        kept = executor.outputs[0]
        first = executor.forward()[0].asnumpy()
        assert np.array_equal(kept.asnumpy(), first)
        training = executor.forward(is_train=True)[0].asnumpy()
        assert np.array_equal(kept.asnumpy(), training)
        assert not np.array_equal(training, first)
        executor.arg_dict["data"][:] *= 2
        assert np.array_equal(kept.asnumpy(), training)
        assert np.array_equal(executor.forward()[0].asnumpy(), kept.asnumpy())
        assert list(executor.output_dict) == ["softmax_output"]
        assert np.array_equal(executor.output_dict["softmax_output"].asnumpy(), kept.asnumpy())


def test_debug_str_shows_the_plan_that_runs() -> None:
    stock, ours = pair(split_net(), {"data": (2, 5)})
    for text in (stock.debug_str(), ours.debug_str()):
        assert re.search(r"Total \d+ MB allocated", text)
        assert "Name=wave" in text
    assert "Op:_TensorRT, Name=tensorrt0" in ours.debug_str()


def test_eval() -> None:
    arrays = random_arrays(mlp(), {"data": (2, 5)})
    results = []
    for name in BACKENDS:
        with backend(name):
            results.append(mlp().eval(mx.cpu(), **arrays)[0])
    assert relative_error(results[1], results[0]) < 1e-5


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_reshape(batch: int) -> None:
    new = (batch, *SHAPE[1:])
    stock, ours = (bound(conv_bn(), name, {"data": SHAPE}) for name in ("NONE", "TensorRT"))
    arguments = {"data": new, "softmax_label": (batch,), "allow_up_sizing": True}
    with backend("NONE"):
        stock_new = stock.reshape(**arguments)
    with backend("TensorRT"):
        ours_new = ours.reshape(**arguments)
    assert taken_nodes(ours_new)
    assert [a.shape for a in ours_new.arg_arrays] == [a.shape for a in stock_new.arg_arrays]
    data = mx.nd.array(np.random.default_rng(2).standard_normal(new))
    assert relative_error(ours_new.forward(data=data)[0], stock_new.forward(data=data)[0]) < 1e-5
    # The weights are the same memory: a write through the old executor is seen by the new one.
    for executor in (stock, ours):
        executor.arg_dict["fc_weight"][:] *= 2
    assert relative_error(ours_new.forward(data=data)[0], stock_new.forward(data=data)[0]) < 1e-5


def test_reshape_refuses_what_stock_refuses() -> None:
    for name in ("NONE", "TensorRT"):
        executor = bound(conv_bn(), name, {"data": SHAPE})
        with backend(name):
            with pytest.raises(mx.MXNetError, match="unspecif|not named"):
                executor.reshape(data=(1, 3, 8, 8))
            with pytest.raises(mx.MXNetError, match="allow_up_sizing"):
                executor.reshape(data=(9, 3, 8, 8), softmax_label=(9,))
            executor.reshape(partial_shaping=True, data=(1, 3, 8, 8)).forward()[0].wait_to_read()


def test_reshape_of_a_stock_executor_while_tensorrt_is_on() -> None:
    executor = bound(conv_bn(), None, {"data": SHAPE})
    with backend("TensorRT"):
        smaller = executor.reshape(data=(1, 3, 8, 8), softmax_label=(1,))
    assert type(smaller) is mx.executor.Executor
    smaller.forward()[0].wait_to_read()


def test_training_forward_runs_the_stock_graph(caplog: pytest.LogCaptureFixture, fresh_warnings: None) -> None:
    stock, ours = (bound(conv_bn(), name, {"data": SHAPE}) for name in (None, "TensorRT"))
    assert taken_nodes(ours)
    inference = ours.forward()[0].asnumpy()
    expected = stock.forward(is_train=True)[0]
    assert relative_error(ours.forward(is_train=True)[0], expected) == 0
    assert relative_error(ours.output_dict["softmax_output"], expected) == 0
    assert relative_error(ours.aux_dict["bn_moving_mean"], stock.aux_dict["bn_moving_mean"]) == 0
    assert np.array_equal(ours.forward()[0].asnumpy(), inference)
    assert sum("forward(is_train=True)" in r.message for r in caplog.records) == 1


# ---- monitors ----


@pytest.mark.parametrize("monitor_all", [False, True])
def test_a_monitor_sees_every_node(monitor_all: bool, fresh_warnings: None, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[dict[str, Any]] = []
    executors = []
    for name in (None, "TensorRT"):
        values: dict[str, Any] = {}
        executor = bound(conv_bn(), name, {"data": SHAPE})
        executor.forward()[0].wait_to_read()

        def callback(key: Any, handle: Any, values: dict[str, Any] = values) -> None:
            array = mx.nd.NDArray(mx.base.NDArrayHandle(handle), writable=False)
            values[mx.base.py_str(key)] = array.asnumpy()

        executor.set_monitor_callback(callback, monitor_all)
        kept = executor.outputs[0]
        result = executor.forward()[0]
        assert np.array_equal(result.asnumpy(), kept.asnumpy())
        seen.append(values)
        executors.append(executor)
    assert len(seen[0]) >= 4
    assert list(seen[1]) == list(seen[0])
    for key, value in seen[0].items():
        assert np.array_equal(seen[1][key], value), key
    assert sum("a monitor is installed" in r.message for r in caplog.records) == 1
    # The monitor goes on in executors that are made by reshape, and outlives the first one.
    smaller = []
    for name, executor in zip((None, "TensorRT"), executors):
        with backend(name):
            smaller.append(executor.reshape(partial_shaping=True, data=(1, *SHAPE[1:])))
    for values in seen:
        values.clear()
    for executor in smaller:
        executor.forward()[0].wait_to_read()
    assert list(seen[1]) == list(seen[0])
    assert seen[0]
    assert all(np.array_equal(seen[1][key], value) for key, value in seen[0].items())


def test_monitor_of_module() -> None:
    stats = []
    for name in (None, "TensorRT"):
        monitor = mx.mon.Monitor(1, stat_func=lambda x: x.abs().max(), sort=True)
        module = mx.mod.Module(conv_bn())
        with backend(name):
            module.bind([("data", SHAPE)], [("softmax_label", (2,))], for_training=False)
            arrays = random_arrays(conv_bn(), {"data": SHAPE})
            auxiliary = {k: arrays.pop(k) for k in conv_bn().list_auxiliary_states()}
            module.set_params({k: v for k, v in arrays.items() if k not in ("data", "softmax_label")}, auxiliary)
            module.install_monitor(monitor)
            monitor.tic()
            module.forward(mx.io.DataBatch([arrays["data"]]), is_train=False)
            stats.append(monitor.toc())
    assert stats[0]
    assert stats[1] == stats[0]
