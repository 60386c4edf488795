"""Small ONNX models, and buffers over NumPy arrays, for the engine tests."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mxnet_trt_property.engines.registry import Buffer, Device

FLOAT = TensorProto.FLOAT


def model(
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Sequence[int]]],
    outputs: Sequence[tuple[str, int, Sequence[int]]],
    weights: Optional[dict[str, Any]] = None,
) -> bytes:
    """Returns a serialized model; inputs and outputs are (name, element type, shape)."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def relu(shape: Sequence[int] = (2, 3), dtype: int = FLOAT) -> bytes:
    """Returns y = max(x, 0)."""
    return model([helper.make_node("Relu", ["x"], ["y"], name="relu0")], [("x", dtype, shape)], [("y", dtype, shape)])


def identity(shape: Sequence[int], dtype: int) -> bytes:
    """Returns y = x for any element type."""
    return model([helper.make_node("Identity", ["x"], ["y"])], [("x", dtype, shape)], [("y", dtype, shape)])


def two_by_two() -> bytes:
    """Returns difference = a - b, ratio = a / b, with an input `unused` in between that no node reads."""
    nodes = [helper.make_node("Sub", ["a", "b"], ["difference"]), helper.make_node("Div", ["a", "b"], ["ratio"])]
    inputs = [("a", FLOAT, (4,)), ("unused", FLOAT, (3,)), ("b", FLOAT, (4,))]
    return model(nodes, inputs, [("difference", FLOAT, (4,)), ("ratio", FLOAT, (4,))])


def convnet(seed: int = 0) -> bytes:
    """Returns convolution, batch normalisation, pooling, dense layer and softmax on (2, 3, 16, 16)."""
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> Any:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    weights = {
        "w": random(8, 3, 3, 3),
        "scale": random(8) + 1,
        "bias": random(8),
        "mean": random(8),
        "variance": np.abs(random(8)) + 1,
        "dense": random(8 * 8 * 8, 10),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv0", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "variance"], ["n"], name="norm0"),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["d"]),
        helper.make_node("Softmax", ["d"], ["y"]),
    ]
    return model(nodes, [("x", FLOAT, (2, 3, 16, 16))], [("y", FLOAT, (2, 10))], weights)


def resnet18(batch: int = 1, seed: int = 0) -> bytes:
    """Returns a residual network of ResNet-18's layers and sizes with random weights, on (batch, 3, 224, 224)."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Any] = {}
    nodes: list[Any] = []

    def conv(data: str, name: str, channels: tuple[int, int], kernel: int, stride: int, relu: bool = True) -> str:
        inputs, outputs = channels
        # Scaled so that the variance of the activations stays the same through the layers.
        scale = (2 / (inputs * kernel * kernel)) ** 0.5
        weights[name + "_w"] = rng.normal(0, scale, (outputs, inputs, kernel, kernel)).astype(np.float32)
        weights[name + "_b"] = rng.normal(0, 0.1, outputs).astype(np.float32)
        pads = [kernel // 2] * 4
        strides = [stride, stride]
        nodes.append(
            helper.make_node("Conv", [data, name + "_w", name + "_b"], [name], name=name, pads=pads, strides=strides)
        )
        if not relu:
            return name
        nodes.append(helper.make_node("Relu", [name], [name + "_r"]))
        return name + "_r"

    data = conv("x", "stem", (3, 64), 7, 2)
    nodes.append(helper.make_node("MaxPool", [data], ["pool"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]))
    data, width = "pool", 64
    for stage, channels in enumerate((64, 128, 256, 512)):
        for block in range(2):
            name, stride = f"s{stage}b{block}", 2 if stage and not block else 1
            inner = conv(data, name + "_1", (width, channels), 3, stride)
            inner = conv(inner, name + "_2", (channels, channels), 3, 1, relu=False)
            if stride > 1:
                data = conv(data, name + "_skip", (width, channels), 1, stride, relu=False)
            nodes.append(helper.make_node("Add", [inner, data], [name + "_sum"]))
            nodes.append(helper.make_node("Relu", [name + "_sum"], [name]))
            data, width = name, channels
    weights["dense"] = rng.normal(0, 0.05, (512, 1000)).astype(np.float32)
    nodes.append(helper.make_node("GlobalAveragePool", [data], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "dense"], ["y"], name="dense0"))
    return model(nodes, [("x", FLOAT, (batch, 3, 224, 224))], [("y", FLOAT, (batch, 1000))], weights)


def refused() -> bytes:
    """Returns a valid model that TensorRT's parser refuses for its node `bad_node`."""
    nodes = [
        helper.make_node("Unique", ["x"], ["u"], name="bad_node"),
        helper.make_node("ReduceSum", ["u"], ["y"], keepdims=0),
    ]
    return model(nodes, [("x", FLOAT, (4,))], [("y", FLOAT, ())])


def buffer(array: Any) -> Buffer:
    """Returns the buffer of a dense NumPy array, which the caller must keep alive."""
    assert array.flags["C_CONTIGUOUS"]
    return Buffer(int(array.ctypes.data), tuple(array.shape), array.dtype)


def checked(data: bytes) -> bytes:
    """Returns `data` after ONNX's own checker accepted it."""
    onnx.checker.check_model(onnx.load_from_string(data))
    return data


def run_in_two_threads(program: Any, device: Device, runs: int = 50) -> None:
    """Runs `convnet()` in two threads, each with its own runner and input, and fails when a result changes."""
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            runner = program.runner(device)
            x = np.random.default_rng(seed).normal(size=(2, 3, 16, 16)).astype(np.float32)
            y = np.zeros((2, 10), np.float32)
            runner.run([buffer(x)], [buffer(y)], 0)
            expected = y.copy()
            for _ in range(runs):
                y[:] = 0
                runner.run([buffer(x)], [buffer(y)], 0)
                np.testing.assert_array_equal(y, expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
