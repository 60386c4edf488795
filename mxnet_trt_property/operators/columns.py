"""im2col: the windows of a convolution as the columns of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import shape_of, spread
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator


@dataclass(frozen=True)
class Im2colParameters(Parameters):
    """Parameters of im2col, which MXNet has for two spatial axes."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilate: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()


@operator("im2col", parameters=Im2colParameters)
def _im2col(params: Im2colParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    strides, dilations, pads = spread(params.stride, 1, 2), spread(params.dilate, 1, 2), spread(params.pad, 0, 2)
    data = w.pad(inputs[0], [0, 0, *pads], [0, 0, *pads]) if any(pads) else inputs[0]
    # Each axis in turn becomes two: the place in the kernel, and the window.
    for axis, size in zip((3, 2), reversed(shape_of(node.inputs[0])[2:])):
        k, s, d, p = (values[axis - 2] for values in (params.kernel, strides, dilations, pads))
        windows = (size + 2 * p - d * (k - 1) - 1) // s + 1
        data = w.node("Gather", [data, w.constant(np.arange(k)[:, None] * d + np.arange(windows) * s)], axis=axis)
    return [w.reshape(w.transpose(data, (0, 1, 2, 4, 3, 5)), shape_of(node.outputs[0]))]
