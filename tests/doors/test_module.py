"""Module and its relatives: results, shapes and metrics as without the plugin, with TensorRT nodes inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from tests.symbols import BACKENDS, backend, conv_bn, mlp, random_arrays, relative_error, taken_nodes

SHAPE = (4, 3, 8, 8)


def parameters(symbol: Any, shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns arguments without data and label, and auxiliary states."""
    arrays = random_arrays(symbol, shapes)
    auxiliary = {k: arrays.pop(k) for k in symbol.list_auxiliary_states()}
    return {k: v for k, v in arrays.items() if k not in (*shapes, "softmax_label")}, auxiliary


def bound_module(
    name: str, symbol: Any = None, contexts: Any = None, shape: tuple[int, ...] = SHAPE, label: bool = True
) -> Any:
    """Returns a module for inference with random parameters; call with the backend still set."""
    symbol = conv_bn() if symbol is None else symbol
    module = mx.mod.Module(symbol, context=contexts or mx.cpu())
    labels = [("softmax_label", (shape[0],))] if label else None
    module.bind([("data", shape)], labels, for_training=False)
    module.set_params(*parameters(symbol, {"data": shape}))
    assert all(bool(taken_nodes(e)) == (name == "TensorRT") for e in module._exec_group.execs)
    return module


def images(count: int, seed: int = 0, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, size, size)).astype("float32")


def both(run: Any) -> tuple[Any, Any]:
    """Returns what `run(name)` returns under each backend."""
    results = []
    for name in BACKENDS:
        with backend(name):
            results.append(run(name))
    return results[0], results[1]


def assert_close(pair: tuple[Sequence[Any], Sequence[Any]]) -> None:
    expected, found = pair
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize("contexts", [mx.cpu(), [mx.cpu(0), mx.cpu(1)]], ids=["one", "two"])
def test_predict_with_a_short_last_batch(contexts: Any) -> None:
    def run(name: str) -> Any:
        module = bound_module(name, contexts=contexts)
        data = mx.io.NDArrayIter(images(10), np.zeros(10), batch_size=4)
        joined = module.predict(data)
        data.reset()
        parts = module.predict(data, merge_batches=False)
        return [joined, *(part[0] for part in parts)]

    expected, found = both(run)
    assert found[0].shape == (10, 5)
    assert_close((expected, found))


@pytest.mark.parametrize("contexts", [mx.cpu(), [mx.cpu(0), mx.cpu(1)]], ids=["one", "two"])
def test_score(contexts: Any) -> None:
    def run(name: str) -> Any:
        module = bound_module(name, contexts=contexts)
        data = mx.io.NDArrayIter(images(10), np.arange(10) % 5, batch_size=4, last_batch_handle="pad")
        return dict(module.score(data, ["acc", "ce"]))

    expected, found = both(run)
    assert found["accuracy"] == expected["accuracy"]
    assert found["cross-entropy"] == pytest.approx(expected["cross-entropy"], rel=1e-5)


def test_batches_of_other_sizes() -> None:
    def run(name: str) -> Any:
        module = bound_module(name, conv_bn().get_internals()["fc_output"], label=False)
        results = []
        for count, size in ((4, 8), (2, 8), (6, 8), (1, 5), (4, 8)):
            batch = mx.io.DataBatch([mx.nd.array(images(count, count, size))])
            module.forward(batch, is_train=False)
            results.append(module.get_outputs()[0].asnumpy())
        return results

    assert_close(both(run))


def test_reshape_and_new_parameters() -> None:
    def run(name: str) -> Any:
        module = bound_module(name)
        results = []
        for count in (2, 7, 4):
            module.reshape([("data", (count, 3, 8, 8))], [("softmax_label", (count,))])
            module.forward(mx.io.DataBatch([mx.nd.array(images(count))]), is_train=False)
            results.append(module.get_outputs()[0].asnumpy())
            arguments, auxiliary = module.get_params()
            arguments["fc_weight"] = arguments["fc_weight"] * 2
            module.set_params(arguments, auxiliary)
        assert all(bool(taken_nodes(e)) == (name == "TensorRT") for e in module._exec_group.execs)
        return results

    assert_close(both(run))


def test_checkpoint(tmp_path: Path) -> None:
    def run(name: str) -> Any:
        prefix = str(tmp_path / name)
        bound_module(name).save_checkpoint(prefix, 3)
        module = mx.mod.Module.load(prefix, 3)
        module.bind([("data", SHAPE)], for_training=False)
        module.forward(mx.io.DataBatch([mx.nd.array(images(4))]), is_train=False)
        assert bool(taken_nodes(module._exec_group.execs[0])) == (name == "TensorRT")
        return module.get_outputs()

    assert_close(both(run))
    assert (tmp_path / "NONE-symbol.json").read_text() == (tmp_path / "TensorRT-symbol.json").read_text()


def test_bucketing_module() -> None:
    def generate(length: int) -> tuple[Any, tuple[str, ...], None]:
        data = mx.sym.Variable("data")
        hidden = mx.sym.FullyConnected(mx.sym.reshape(data, shape=(-1, 5)), num_hidden=6, name="shared")
        hidden = mx.sym.reshape(mx.sym.tanh(hidden), shape=(-1, length, 6))
        return mx.sym.sum(hidden, axis=1, name="total"), ("data",), None

    def run(name: str) -> Any:
        module = mx.mod.BucketingModule(generate, default_bucket_key=8)
        module.bind([("data", (2, 8, 5))], for_training=False)
        module.set_params(*parameters(generate(8)[0], {"data": (2, 8, 5)}))
        results = []
        for length in (8, 3, 5, 3, 8):
            data = mx.nd.array(np.random.default_rng(length).standard_normal((2, length, 5)))
            shapes = [mx.io.DataDesc("data", data.shape)]
            module.forward(mx.io.DataBatch([data], bucket_key=length, provide_data=shapes), is_train=False)
            results.append(module.get_outputs()[0].asnumpy())
            execs = module._curr_module._exec_group.execs
            assert all(bool(taken_nodes(e)) == (name == "TensorRT") for e in execs)
        return results

    assert_close(both(run))


def test_sequential_module() -> None:
    def run(name: str) -> Any:
        first, second = mlp("first_"), mlp("second_")
        chain = mx.mod.SequentialModule()
        chain.add(mx.mod.Module(first, label_names=None))
        chain.add(mx.mod.Module(second, label_names=None), auto_wiring=True)
        chain.bind([("data", (4, 5))], for_training=False)
        values = parameters(first, {"data": (4, 5)})[0], parameters(second, {"data": (4, 3)})[0]
        chain.init_params(arg_params={**values[0], **values[1]}, aux_params={})
        chain.forward(mx.io.DataBatch([mx.nd.array(images(1)[0, 0, :4, :5])]), is_train=False)
        execs = [e for m in chain._modules for e in m._exec_group.execs]
        assert all(bool(taken_nodes(e)) == (name == "TensorRT") for e in execs)
        return [o.copy() for o in chain.get_outputs()]

    assert_close(both(run))


def test_feed_forward() -> None:
    def run(name: str) -> Any:
        arguments, auxiliary = parameters(conv_bn(), {"data": SHAPE})
        model = mx.model.FeedForward(conv_bn(), ctx=mx.cpu(), arg_params=arguments, aux_params=auxiliary)
        found = model.predict(mx.io.NDArrayIter(images(10), batch_size=4))
        assert bool(taken_nodes(model._pred_exec)) == (name == "TensorRT")
        return [found]

    with pytest.warns(DeprecationWarning):
        assert_close(both(run))


def test_inputs_that_want_gradients_are_left_to_mxnet() -> None:
    def run(name: str) -> Any:
        module = mx.mod.Module(conv_bn())
        module.bind([("data", SHAPE)], [("softmax_label", (4,))], inputs_need_grad=True)
        module.set_params(*parameters(conv_bn(), {"data": SHAPE}))
        module.forward(mx.io.DataBatch([mx.nd.array(images(4))], [mx.nd.arange(4)]), is_train=True)
        module.backward()
        assert not any(taken_nodes(e) for e in module._exec_group.execs)
        return [g.asnumpy() for g in module.get_input_grads()]

    expected, found = both(run)
    assert np.array_equal(found[0], expected[0])
    assert np.abs(found[0]).max() > 0
