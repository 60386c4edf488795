"""Weights frozen into TensorRT nodes: optimize_for with arrays, and symbols that are saved with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from mxnet_trt_property import freezing, frozen_store
from mxnet_trt_property.errors import FrozenWeightsError
from tests.symbols import backend, conv_bn, mlp, random_arrays, relative_error, split_net

SHAPES = {"data": (2, 3, 8, 8), "softmax_label": (2,)}


def parameters(
    symbol: Any, shapes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns arguments that are parameters, auxiliary states, and data."""
    arrays = random_arrays(symbol, shapes)
    auxiliary = {k: arrays.pop(k) for k in symbol.list_auxiliary_states()}
    data = {k: arrays.pop(k) for k in shapes if k in arrays}
    return arrays, auxiliary, data


def stock_output(symbol: Any, *groups: dict[str, Any]) -> np.ndarray:
    arrays = {k: v for group in groups for k, v in group.items()}
    auxiliary = {k: arrays.pop(k) for k in symbol.list_auxiliary_states()}
    with backend("NONE"):
        return symbol.bind(mx.cpu(), arrays, grad_req="null", aux_states=auxiliary).forward()[0].asnumpy()


def test_given_weights_move_into_the_node() -> None:
    symbol = conv_bn()
    arguments, auxiliary, data = parameters(symbol, SHAPES)
    expected = stock_output(symbol, arguments, auxiliary, data)
    new = symbol.optimize_for("TensorRT", arguments, auxiliary, mx.cpu(), shape_dict=SHAPES)
    assert not arguments
    assert not auxiliary
    assert new.list_arguments() == ["data", "softmax_label"]
    assert not new.list_auxiliary_states()
    executor = new.simple_bind(mx.cpu(), grad_req="null", **SHAPES)
    executor.copy_params_from(arguments, auxiliary)
    assert relative_error(executor.forward(**data)[0], mx.nd.array(expected)) < 1e-5


def test_weights_that_mxnet_reads_too_stay_with_the_program() -> None:
    weight = mx.sym.Variable("fc_weight")
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), weight, num_hidden=5, name="fc")
    net = mx.sym.relu(net)
    symbol = mx.sym.Group([net, mx.sym.gammaln(mx.sym.abs(weight) + 1)])
    arguments, _, data = parameters(symbol, {"data": (2, 5)})
    kept = dict(arguments)
    expected = stock_output(symbol, arguments, data)
    new = symbol.optimize_for("TensorRT", arguments, {}, mx.cpu(), shape_dict={"data": (2, 5)})
    assert set(arguments) == {"fc_weight"}
    executor = new.bind(mx.cpu(), {**arguments, **data}, grad_req="null")
    assert relative_error(executor.forward()[0], mx.nd.array(expected)) < 1e-5
    kept["fc_weight"][:] *= 2
    expected = stock_output(symbol, kept, data)
    assert relative_error(executor.forward()[0], mx.nd.array(expected)) < 1e-5


def test_several_nodes_and_weights_given_one_after_the_other() -> None:
    symbol = split_net()
    arguments, _, data = parameters(symbol, {"data": (2, 5)})
    expected = stock_output(symbol, arguments, data)
    names = sorted(arguments)
    first = {k: arguments.pop(k) for k in names[::2]}
    new = symbol.optimize_for("TensorRT", first, {}, mx.cpu(), shape_dict={"data": (2, 5)})
    assert not first
    assert set(new.list_arguments()) == {"data", *arguments}
    rest, none = mx.contrib.tensorrt.init_tensorrt_params(new, arguments, {})
    assert not rest
    assert not none
    assert new.list_arguments() == ["data"]
    executor = new.bind(mx.cpu(), data, grad_req="null")
    assert relative_error(executor.forward()[0], mx.nd.array(expected)) < 1e-5


def test_save_and_load_in_a_new_process(tmp_path: Path) -> None:
    symbol = mlp()
    arguments, _, data = parameters(symbol, {"data": (2, 5)})
    expected = stock_output(symbol, arguments, data)
    new = symbol.optimize_for("TensorRT", arguments, {}, mx.cpu(), shape_dict={"data": (2, 5)})
    new.save(str(tmp_path / "net-symbol.json"))
    np.savez(tmp_path / "arrays.npz", data=data["data"].asnumpy(), expected=expected)
    code = f"""
import sys
import numpy as np, mxnet as mx, pickle
arrays = np.load({str(tmp_path / "arrays.npz")!r})
symbol = mx.sym.load({str(tmp_path / "net-symbol.json")!r})
text = open({str(tmp_path / "net-symbol.json")!r}).read()
for net in (symbol, mx.sym.load_json(text), pickle.loads(pickle.dumps(symbol)), mx.sym.load_json(symbol.tojson())):
    assert net.list_arguments() == ["data"]
    executor = net.bind(mx.cpu(), {{"data": mx.nd.array(arrays["data"])}}, grad_req="null")
    found = executor.forward()[0].asnumpy()
    assert found.dtype == arrays["expected"].dtype
    assert np.allclose(found, arrays["expected"], rtol=1e-5), found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_saving_a_symbol_without_frozen_weights_is_stock(tmp_path: Path) -> None:
    for symbol in (mlp(), mlp().get_backend_symbol("TensorRT")):
        stock = type(symbol).tojson.__wrapped__(symbol)
        assert symbol.tojson() == stock
        symbol.save(str(tmp_path / "net.json"))
        assert mx.sym.load(str(tmp_path / "net.json")).tojson() == stock


def frozen_mlp() -> Any:
    arguments, _, _ = parameters(mlp(), {"data": (2, 5)})
    return mlp().optimize_for("TensorRT", arguments, {}, mx.cpu(), shape_dict={"data": (2, 5)})


def test_equal_weights_are_stored_once() -> None:
    first, second = frozen_mlp(), frozen_mlp()
    stock = type(first).tojson.__wrapped__
    assert stock(first) == stock(second)


def test_weights_are_not_in_memory_beside_the_engine() -> None:
    arguments, _, _ = parameters(mlp(), {"data": (2, 5)})
    weights = {k: v.asnumpy() for k, v in arguments.items()}
    store = frozen_store.keep(weights.values())
    assert [np.array_equal(store.array(i), v) for i, v in enumerate(weights.values())] == [True] * len(weights)
    big = frozen_store.keep([np.random.default_rng(0).standard_normal((256, 1024, 16)).astype("float32")])

    def resident() -> int:
        text = Path("/proc/self/smaps").read_text()
        at = text.index(f"{big.array(0).__array_interface__['data'][0]:x}-")
        return int(text[at:].split("Rss:")[1].split()[0])

    assert big.array(0).sum() != 0
    assert resident() > 8000
    big.drop_pages()
    assert resident() < 100
    assert big.array(0).std() > 0.9


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "no base64"])
def test_damaged_weights_are_an_error(damage: str) -> None:
    text = frozen_mlp().tojson()
    token = json.loads(text)["nodes"][-1]["attrs"][freezing.WEIGHTS_ATTRIBUTE]
    assert token.startswith(frozen_store.EMBEDDED)
    middle = len(token) // 2
    wrong = {
        "cut": token[:middle] + token[middle + 4 :],
        "flipped": token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :],
        "foreign": "0123456789abcdef",
        "no base64": frozen_store.EMBEDDED + "!",
    }[damage]
    with pytest.raises(FrozenWeightsError, match="not in this process" if damage == "foreign" else "cannot be read"):
        symbol = mx.sym.load_json(text.replace(token, wrong))
        symbol.tojson()


def test_no_room_for_weights_leaves_them_with_the_program(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fresh_warnings: None
) -> None:
    def no_room(*arguments: Any, **named: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", no_room)
    arguments, _, data = parameters(mlp(), {"data": (2, 5)})
    before = dict(arguments)
    new = mlp().optimize_for("TensorRT", arguments, {}, mx.cpu(), shape_dict={"data": (2, 5)})
    assert arguments == before
    assert "No space left on device" in caplog.text
    executor = new.bind(mx.cpu(), {**arguments, **data}, grad_req="null")
    assert relative_error(executor.forward()[0], mx.nd.array(stock_output(mlp(), before, data))) < 1e-5


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "net-symbol.json"
    target.write_text("old")

    def fails(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    symbol = frozen_mlp()
    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="No space left"):
        symbol.save(str(target))
    assert [p.name for p in tmp_path.iterdir()] == ["net-symbol.json"]
    assert target.read_text() == "old"
    with pytest.raises(FrozenWeightsError, match="local file"):
        symbol.save("s3://bucket/net-symbol.json")


def test_frozen_symbol_with_the_variable_set() -> None:
    symbol = frozen_mlp()
    arguments, _, data = parameters(mlp(), {"data": (2, 5)})
    with backend("TensorRT"):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(2, 5))
    assert relative_error(executor.forward(**data)[0], mx.nd.array(stock_output(mlp(), arguments, data))) < 1e-5


def test_frozen_symbol_serves_other_shapes() -> None:
    symbol = frozen_mlp()
    arguments, _, _ = parameters(mlp(), {"data": (2, 5)})
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", (2, 5))], for_training=False)
    module.init_params()
    for batch in (2, 5, 1):
        data = mx.nd.array(np.random.default_rng(batch).standard_normal((batch, 5)))
        module.forward(mx.io.DataBatch([data]), is_train=False)
        expected = stock_output(mlp(), arguments, {"data": data})
        assert relative_error(module.get_outputs()[0], mx.nd.array(expected)) < 1e-5
