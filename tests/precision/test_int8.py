"""Int8: accuracy on held-out digits, every door with a table or with the first forwards, and each error."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest

import mxnet_trt_property
from mxnet_trt_property import programs, settings
from mxnet_trt_property.cli import calibrate
from mxnet_trt_property.cli.main import main
from mxnet_trt_property.engines.ort import OnnxRuntimeEngine
from mxnet_trt_property.errors import EngineError, SettingError
from mxnet_trt_property.precision import tables
from tests.harness import build_engine
from tests.precision import digits
from tests.precision.digits import BATCH, TRAINED, Digits
from tests.symbols import backend, relative_error, taken_nodes

SHAPE = (BATCH, 1, 8, 8)
INT8 = {"MXNET_TENSORRT_PRECISION": "int8", "MXNET_TENSORRT_ON_ERROR": "raise"}


@pytest.fixture(scope="module")
def net() -> Digits:
    return digits.trained()


@pytest.fixture(scope="module")
def checkpoint(net: Digits, tmp_path_factory: pytest.TempPathFactory) -> str:
    prefix = str(tmp_path_factory.mktemp("digits") / "digits")
    mx.model.save_checkpoint(prefix, 0, net.symbol, net.arg_params, net.aux_params)
    np.save(prefix + ".npy", net.images[:TRAINED])
    return prefix


@pytest.fixture(scope="module")
def table(checkpoint: str) -> str:
    arguments = ["calibrate", checkpoint, "--shape", "data=100,1,8,8", "--data", checkpoint + ".npy"]
    assert main([*arguments, "--batches", "4", "-o", checkpoint + ".json"]) == 0
    return checkpoint + ".json"


def bound(net: Digits, name: str, **variables: str) -> Any:
    with backend(name, **variables):
        executor = net.symbol.simple_bind(mx.cpu(), grad_req="null", data=SHAPE)
    executor.copy_params_from(net.arg_params, net.aux_params)
    return executor


def scores(executor: Any, net: Digits) -> np.ndarray:
    return np.concatenate([executor.forward(data=mx.nd.array(b))[0].asnumpy() for b in net.held_out()])


@pytest.fixture(scope="module")
def expected(net: Digits) -> np.ndarray:
    return scores(bound(net, "NONE"), net)


def assert_int8(net: Digits, found: np.ndarray, expected: np.ndarray) -> None:
    """The loss of accuracy is at most a percentage point, and the numbers are those of int8, not of float32."""
    assert net.accuracy(expected) > 0.95
    assert net.accuracy(expected) - net.accuracy(found) <= 0.01
    assert 1e-4 < relative_error(found, expected) < 0.1


def test_accuracy_with_a_table(net: Digits, table: str, expected: np.ndarray) -> None:
    executor = bound(net, "TensorRT", **INT8, MXNET_TENSORRT_CALIBRATION_TABLE=table)
    assert len(taken_nodes(executor)) == len(json.loads(net.symbol.tojson())["nodes"]) - len(
        net.symbol.list_arguments() + net.symbol.list_auxiliary_states()
    )
    assert_int8(net, scores(executor, net), expected)


@pytest.mark.parametrize("method", tables.METHODS)
def test_calibration_on_the_first_forwards(
    net: Digits, expected: np.ndarray, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    variables = {"MXNET_TENSORRT_CALIBRATION_ITERS": "2", "MXNET_TENSORRT_CALIBRATION_METHOD": method}
    executor = bound(net, "TensorRT", **INT8, **variables)
    samples = [mx.nd.array(net.images[i * BATCH : (i + 1) * BATCH]) for i in range(2)]
    reference = bound(net, "NONE")
    for sample in samples:
        found = executor.forward(data=sample)[0]
        assert relative_error(found, reference.forward(data=sample)[0]) < 1e-5, "float32 while it calibrates"
    with caplog.at_level(logging.INFO, "mxnet_trt_property"):
        found = scores(executor, net)
    assert f"calibrated on 2 forwards ({method}); it goes on in int8" in caplog.text
    assert_int8(net, found, expected)


def test_module(net: Digits, table: str, expected: np.ndarray) -> None:
    with backend("TensorRT", **INT8, MXNET_TENSORRT_CALIBRATION_TABLE=table):
        module = mx.mod.Module(net.symbol)
        module.bind([("data", SHAPE)], for_training=False)
        module.set_params(net.arg_params, net.aux_params)
        found = module.predict(mx.io.NDArrayIter(net.images[TRAINED:], batch_size=BATCH)).asnumpy()
    assert_int8(net, found, expected)


@pytest.mark.parametrize("spelling", ["int8", "fp16_int8"])
def test_optimize_for_with_the_options_of_mxnet_1_9(net: Digits, expected: np.ndarray, spelling: str) -> None:
    arguments = {**net.arg_params, "data": mx.nd.zeros(SHAPE), "softmax_label": mx.nd.zeros(SHAPE[:1])}
    symbol = net.symbol.optimize_for(
        "TensorRT", dict(arguments), dict(net.aux_params), mx.cpu(), precision=spelling, calibration_iters=2
    )
    with backend("NONE"):
        left = {k: v for k, v in arguments.items() if k in symbol.list_arguments()}
        rest = {k: v for k, v in net.aux_params.items() if k in symbol.list_auxiliary_states()}
        executor = symbol.bind(mx.cpu(), left, grad_req="null", aux_states=rest)
        for i in range(2):
            executor.forward(data=mx.nd.array(net.images[i * BATCH : (i + 1) * BATCH]))[0].wait_to_read()
        assert_int8(net, scores(executor, net), expected)


def gluon_block(checkpoint: str) -> Any:
    inputs = ["data", "softmax_label"]
    return mx.gluon.SymbolBlock.imports(checkpoint + "-symbol.json", inputs, checkpoint + "-0000.params")


@pytest.mark.parametrize("static", [False, True])
def test_gluon(checkpoint: str, net: Digits, expected: np.ndarray, table: str, static: bool) -> None:
    block = mx.gluon.SymbolBlock.imports(
        checkpoint + "-symbol.json", ["data", "softmax_label"], checkpoint + "-0000.params"
    )
    label = mx.nd.zeros(SHAPE[:1])
    block.hybridize(
        backend="TensorRT", static_alloc=static, static_shape=static, precision="int8", calibration_table=table
    )
    found = np.concatenate([block(mx.nd.array(b), label).asnumpy() for b in net.held_out()])
    assert_int8(net, found, expected)


def test_gluon_calibrates_on_its_first_calls(checkpoint: str, net: Digits, expected: np.ndarray) -> None:
    """Without static_alloc each call has a state of its own."""
    block = mx.gluon.SymbolBlock.imports(
        checkpoint + "-symbol.json", ["data", "softmax_label"], checkpoint + "-0000.params"
    )
    label = mx.nd.zeros(SHAPE[:1])
    block.hybridize(backend="TensorRT", precision="int8", calibration_iters=2)
    for i in range(2):
        block(mx.nd.array(net.images[i * BATCH : (i + 1) * BATCH]), label).wait_to_read()
    found = np.concatenate([block(mx.nd.array(b), label).asnumpy() for b in net.held_out()])
    assert_int8(net, found, expected)


def test_compile(net: Digits, table: str, expected: np.ndarray, tmp_path: Path) -> None:
    arguments = (net.symbol, net.arg_params, net.aux_params, {"data": SHAPE})
    options: dict[str, Any] = {"engine": "onnxruntime", "precision": "int8", "calibration_method": "minmax"}
    samples = [net.images[i * BATCH : (i + 1) * BATCH] for i in range(2)]
    for given in (Path(table), samples, {"data": samples[0]}, mx.nd.array(samples[0]), table):
        model = mxnet_trt_property.compile(*arguments, calibration=given, **options)
        found = np.concatenate([model(batch) for batch in net.held_out()])
        assert_int8(net, found, expected)
    model.save(tmp_path / "model")
    again = mxnet_trt_property.load(tmp_path / "model", engine="onnxruntime")
    assert again.precision == "int8"
    assert np.array_equal(again(net.held_out()[0]), model(net.held_out()[0]))
    with pytest.raises(SettingError, match="pass calibration="):
        mxnet_trt_property.compile(*arguments, **options)
    with pytest.raises(SettingError, match=r"required: shape \(199, 1, 8, 8\)"):
        mxnet_trt_property.compile(*arguments, calibration=samples[0][:3], **options)


def test_table_holds_for_another_partition(net: Digits, table: str, expected: np.ndarray) -> None:
    """Its keys are MXNet's names, whichever TensorRT node a value lies in or between."""
    variables = {"MXNET_TENSORRT_CALIBRATION_TABLE": table, "MXNET_TENSORRT_EXCLUDE_NODES": "pool0,relu2"}
    executor = bound(net, "TensorRT", **INT8, **variables)
    assert executor.tensorrt.made.decisions.subgraph_count > 1
    whole = bound(net, "TensorRT", **INT8, MXNET_TENSORRT_CALIBRATION_TABLE=table)
    assert relative_error(scores(executor, net), scores(whole, net)) < 1e-5


def test_keep_fp32(net: Digits, table: str, expected: np.ndarray) -> None:
    names = "Convolution,FullyConnected"
    variables = {"MXNET_TENSORRT_CALIBRATION_TABLE": table, "MXNET_TENSORRT_KEEP_FP32": names}
    assert relative_error(scores(bound(net, "TensorRT", **INT8, **variables), net), expected) < 1e-5


def test_new_weights_are_quantized_again(net: Digits, table: str) -> None:
    executor = bound(net, "TensorRT", **INT8, MXNET_TENSORRT_CALIBRATION_TABLE=table)
    before = scores(executor, net)
    executor.arg_dict["fc1_weight"][:] = -executor.arg_dict["fc1_weight"]
    assert net.accuracy(before) > 0.95
    assert net.accuracy(scores(executor, net)) < 0.5


def test_what_is_written_is_what_tensorrt_builds(net: Digits, table: str, built_models: list[bytes]) -> None:
    pytest.importorskip("tensorrt_rtx")
    scores(bound(net, "TensorRT", **INT8, MXNET_TENSORRT_CALIBRATION_TABLE=table), net)
    for model in built_models:
        proto = onnx.load_from_string(model)
        onnx.checker.check_model(proto, full_check=True)
        writers = {name: node.op_type for node in proto.graph.node for name in node.output}
        layers = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
        assert len(layers) == 4
        assert all(writers[name] == "DequantizeLinear" for node in layers for name in node.input[:2])
        build_engine(model)
    assert built_models


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({}, "neither a calibration table nor a number of forwards"),
        ({"MXNET_TENSORRT_CALIBRATION_TABLE": "/nowhere/table.json"}, "FileNotFoundError"),
    ],
)
def test_int8_without_calibration_is_an_error(net: Digits, variables: dict[str, str], text: str) -> None:
    with pytest.raises(SettingError, match=text) as raised:
        bound(net, "TensorRT", MXNET_TENSORRT_PRECISION="int8", **variables)
    assert "mxnet-trt calibrate" in str(raised.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"format": "other", "version": 1, "ranges": {}}', '{"format": "mxnet-trt calibration table"}'],
)
def test_foreign_table(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(SettingError, match="cannot be read"):
        tables.load(path)


@pytest.mark.parametrize("extent", [[0, "inf"], [1, 0], [0, "nan"], [0]])
def test_table_with_a_bad_range(extent: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"format": tables.FORMAT, "version": 1, "ranges": {"data": extent}}))
    with pytest.raises(SettingError, match="cannot be read"):
        tables.load(path)


def test_table_of_another_network(net: Digits, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    tables.save(path, {"other": (0.0, 1.0)}, "minmax", 1)
    executor = bound(net, "TensorRT", **INT8, MXNET_TENSORRT_CALIBRATION_TABLE=str(path))
    with backend("TensorRT", **INT8), pytest.raises(mx.MXNetError, match="it knows none of the inputs to quantize"):
        executor.forward()[0].wait_to_read()


def test_an_engine_without_int8_convolutions(
    net: Digits, table: str, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Its convolutions stay in float32, with one warning; the products are in int8."""
    monkeypatch.setattr(OnnxRuntimeEngine, "no_int8", lambda self: {"Conv"}, raising=False)
    programs.clear()
    with caplog.at_level(logging.WARNING, "mxnet_trt_property"):
        found = scores(bound(net, "TensorRT", **INT8, MXNET_TENSORRT_CALIBRATION_TABLE=table), net)
    assert_int8(net, found, expected)
    (text,) = [r.getMessage() for r in caplog.records if "does not build them in int8" in r.getMessage()]
    assert "2 nodes stay in float32" in text and "found: Conv" in text
    programs.clear()


def test_table_that_lacks_a_value_is_told(net: Digits, table: str, tmp_path: Path, caplog: Any) -> None:
    ranges = tables.load(Path(table))
    del ranges["relu2_output"]
    path = tmp_path / "table.json"
    tables.save(path, ranges, "minmax", 1)
    with caplog.at_level(logging.WARNING, "mxnet_trt_property"):
        scores(bound(net, "TensorRT", **INT8, MXNET_TENSORRT_CALIBRATION_TABLE=str(path)), net)
    assert "1 nodes stay in float32, since the calibration has no range of theirs | found: fc1" in caplog.text


def test_samples_that_are_not_finite(net: Digits) -> None:
    sample = net.images[:BATCH].copy()
    sample[0] = np.nan
    with pytest.raises(EngineError, match="cannot be calibrated for int8"):
        mxnet_trt_property.compile(
            net.symbol, net.arg_params, net.aux_params, {"data": SHAPE}, precision="int8", calibration=sample,
            calibration_method="minmax",
        )  # fmt: skip


def test_numbers_that_int8_was_not_calibrated_for_saturate(net: Digits, table: str) -> None:
    executor = bound(net, "TensorRT", **INT8, MXNET_TENSORRT_CALIBRATION_TABLE=table)
    for scale in (0.0, 1e6, 1e30):
        found = executor.forward(data=mx.nd.array(net.images[:BATCH]) * scale)[0].asnumpy()
        assert np.isfinite(found).all()


def test_calibrate_reads_archives_and_folders(checkpoint: str, net: Digits, tmp_path: Path, capsys: Any) -> None:
    np.savez(tmp_path / "alone.npz", net.images[:200])
    np.savez(tmp_path / "named.npz", data=net.images[:200])
    (tmp_path / "folder").mkdir()
    for i in range(4):
        np.save(tmp_path / "folder" / f"{i}.npy", net.images[50 * i : 50 * i + 50])
    found = []
    for name in ("alone.npz", "named.npz", "folder"):
        arguments = ["calibrate", checkpoint, "--shape", "data=100,1,8,8", "--data", str(tmp_path / name), "--json"]
        assert main([*arguments, "--method", "minmax", "-o", str(tmp_path / "table.json")]) == 0
        record = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (record["batches"], record["ranges"], record["method"]) == (2, 4, "minmax")
        found.append(tables.load(tmp_path / "table.json"))
    assert found[0] == found[1] == found[2]
    assert set(found[0]) == {"data", "pool0_output", "fc0/Flatten", "relu2_output"}


def test_calibrate_reads_records_of_images(tmp_path: Path) -> None:
    """--scale goes over what --mean and --std leave."""
    image = pytest.importorskip("PIL.Image", reason="Pillow comes with matplotlib")
    records = mx.recordio.MXRecordIO(str(tmp_path / "images.rec"), "w")
    for i in range(5):
        picture = io.BytesIO()
        image.new("RGB", (8, 8), (50 * i, 10, 20)).save(picture, format="PNG")
        records.write(mx.recordio.pack(mx.recordio.IRHeader(0, float(i), i, 0), picture.getvalue()))
    records.close()
    options = {"scale": 0.5, "mean_r": 100.0, "std_r": 2.0}
    batches = list(calibrate.read(tmp_path / "images.rec", {"data": (2, 3, 8, 8)}, options))
    assert len(batches) == 2
    reds = [batch["data"][j, 0, 0, 0] for batch in batches for j in range(2)]
    assert reds == [0.5 * (50 * i - 100) / 2 for i in range(4)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"--data": "/nowhere.npy"}, "cannot be read"),
        ({"--data": "setup.py"}, "an .npy, .npz or .rec file"),
        ({"--shape": "data=100,3,8,8"}, "do not fit the network's inputs"),
        ({"--shape": "data=5000,1,8,8"}, "no batch to calibrate on"),
        ({"prefix": "/nowhere"}, "/nowhere-symbol.json cannot be loaded"),
    ],
)
def test_calibrate_says_what_is_wrong(
    checkpoint: str, change: dict[str, str], text: str, tmp_path: Path, capsys: Any
) -> None:
    given = {"prefix": checkpoint, "--shape": "data=100,1,8,8", "--data": checkpoint + ".npy", **change}
    prefix = given.pop("prefix")
    arguments = [part for pair in given.items() for part in pair]
    assert main(["calibrate", prefix, *arguments, "-o", str(tmp_path / "t.json")]) == 1
    assert text in capsys.readouterr().err
    assert not (tmp_path / "t.json").exists()


def test_names_of_mxnet_1_9() -> None:
    with backend("TensorRT"):
        found = settings.read({"precision": "fp16_int8", "calibration_iters": "7"})
    assert (found.precision, found.calibration_iters) == ("int8", 7)
