"""Looks at a model on sample inputs, in float32, for what a narrower type cannot do.

Two things are found. *Range*: nodes whose values come near the end of the narrower type. *Sensitivity*: an error of the
first layers passes through all others, and ill-conditioned networks magnify it on that way; where the outputs in
float16 are further from those in float32 than `_ERROR`, the first layers with weights stay in float32: one, two, four,
and so on, up to a quarter.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import onnx

from mxnet_trt_property.errors import EngineError, message
from mxnet_trt_property.precision.float16 import FLOAT16_MAX, to_float16
from mxnet_trt_property.precision.runtime import Feed, peak, session

BFLOAT16_MAX = 3.3895313892515355e38
"""(2 - 2**-7) * 2**127."""

_MAXIMA = {"fp16": FLOAT16_MAX, "bf16": BFLOAT16_MAX}
_PEAK = "peak of "
# Relative to the norm of each output; a network is asked to be within 5e-3 on inputs that were not seen, too.
_ERROR = 4e-3
# If a quarter of the layers does not bring the error down, the first layers are not its cause.
_SHARE = 4
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Findings(NamedTuple):
    """What stays in float32.

    Attributes:
        peaks: For each node beyond the range its largest absolute value.
        sensitive: The first layers, where they have to stay.
        error: The relative error without `sensitive`.
    """

    peaks: dict[str, float]
    sensitive: tuple[str, ...] = ()
    error: float = 0.0


def look(model: bytes, kind: str, keep: Collection[str], feed: Feed, label: str) -> Findings:
    """Runs the float32 model on sample inputs.

    Args:
        model: A serialized ONNX model with its weights, not converted.
        kind: "fp16" or "bf16"; only float16 is looked at for sensitive layers, as bfloat16 promises 8 bits of mantissa.
        keep: MXNet's nodes (by name) and operators that stay in float32 anyway.
        feed: The inputs.
        label: What messages call the model.

    Raises:
        EngineError: ONNX Runtime is missing, or refuses the model.
    """
    try:
        peaks = _beyond(model, feed, _MAXIMA[kind] / 4, label)
        if kind != "fp16":
            return Findings(peaks)
        sensitive, error = _sensitive(model, keep, set(peaks), feed, label)
        return Findings(peaks, sensitive, error)
    except EngineError:
        raise
    except Exception as error:  # its exception types share no base of their own
        raise EngineError(
            message(
                f"{label} cannot be run on its first inputs to see what exceeds {kind}",
                found=f"{type(error).__name__}: {error}",
                next_step="set MXNET_TENSORRT_PRECISION=fp32",
            )
        ) from error


def _beyond(model: bytes, feed: Feed, limit: float, label: str) -> dict[str, float]:
    """Returns the nodes of which an input or output exceeds `limit`, with the largest absolute value."""
    proto = onnx.load_from_string(model)
    inferred = onnx.shape_inference.infer_shapes(proto)
    floats = {
        value.name
        for value in (*inferred.graph.value_info, *inferred.graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    written = [name for node in proto.graph.node for name in node.output if name in floats]
    peaks = {k: peak(v) for k, v in feed.items() if v.dtype == np.float32}
    del proto.graph.output[:]
    for name in written:
        # The peak alone leaves the run: all values at once would need far more memory than a run does.
        proto.graph.node.add(op_type="Abs", input=[name], output=[f"size of {name}"])
        node = proto.graph.node.add(op_type="ReduceMax", input=[f"size of {name}"], output=[_PEAK + name])
        node.attribute.add(name="keepdims", type=onnx.AttributeProto.INT, i=0)
        output = proto.graph.output.add(name=_PEAK + name)
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    if written:
        run = session(proto.SerializeToString(), label, optimize=False).run
        peaks.update(zip(written, map(float, run([_PEAK + name for name in written], dict(feed)))))
    near = {name: size for name, size in peaks.items() if limit < size < np.inf}
    found: dict[str, float] = {}
    for node in onnx.load_from_string(model).graph.node:
        met = [near[name] for name in (*node.input, *node.output) if name in near]
        if met:
            found[node.name] = max(met)
    return found


def _sensitive(
    model: bytes, keep: Collection[str], near: Collection[str], feed: Feed, label: str
) -> tuple[tuple[str, ...], float]:
    """Returns the first layers that have to stay in float32, and the relative error if they did not."""
    graph = onnx.load_from_string(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    layers = [n.name for n in graph.node if n.op_type in _WEIGHTED and constants.intersection(n.input)]
    expected = session(model, label, optimize=True).run(None, dict(feed))

    def error_with(count: int) -> float:
        narrow = to_float16(model, keep, {*near, *layers[:count]}, label)
        found = session(narrow, label, optimize=True).run(None, dict(feed))
        return max((_relative_error(a, b) for a, b in zip(found, expected)), default=0.0)

    error = error_with(0)
    count = 1
    while error > _ERROR and count <= len(layers) // _SHARE:
        if error_with(count) <= _ERROR:
            return tuple(layers[:count]), error
        count *= 2
    return (), error


def _relative_error(found: np.ndarray, expected: np.ndarray) -> float:  # type: ignore[type-arg]
    """Returns ||a - b|| / ||b|| over what is finite in both; 0 for what is no float."""
    if expected.dtype != np.float32:
        return 0.0
    finite = np.isfinite(expected) & np.isfinite(found)
    size = float(np.linalg.norm(expected[finite].astype(np.float64)))
    return float(np.linalg.norm((found[finite] - expected[finite]).astype(np.float64))) / size if size else 0.0
