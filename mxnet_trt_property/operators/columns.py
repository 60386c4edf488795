"""im2col and col2im: the windows of a convolution as the columns of a matrix, and their sum back into an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import shape_of, spread, sum_places
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator


@dataclass(frozen=True)
class Im2colParameters(Parameters):
    """Parameters of im2col, which MXNet has for two spatial axes."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilate: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()


@dataclass(frozen=True)
class Col2imParameters(Parameters):
    """Parameters of col2im, the same but for the size of the image, which its input does not tell."""

    output_size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilate: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()


@operator("im2col", parameters=Im2colParameters)
def _im2col(params: Im2colParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    pads = spread(params.pad, 0, 2)
    data = w.pad(inputs[0], [0, 0, *pads], [0, 0, *pads]) if any(pads) else inputs[0]
    # Each axis in turn becomes two: the place in the kernel, and the window.
    for axis in (3, 2):
        places = _places(params, axis - 2, shape_of(node.inputs[0])[axis])
        data = w.node("Gather", [data, w.constant(places + pads[axis - 2])], axis=axis)
    return [w.reshape(w.transpose(data, (0, 1, 2, 4, 3, 5)), shape_of(node.outputs[0]))]


def _places(params: Union[Im2colParameters, Col2imParameters], axis: int, size: int) -> np.ndarray[Any, Any]:
    """Returns the pixel of each place in the kernel and each window along one axis; those in the pad are outside."""
    k = params.kernel[axis]
    stride, dilation, pad = (
        values[axis] for values in (spread(params.stride, 1, 2), spread(params.dilate, 1, 2), spread(params.pad, 0, 2))
    )
    windows = (size + 2 * pad - dilation * (k - 1) - 1) // stride + 1
    found: np.ndarray[Any, Any] = np.arange(k)[:, None] * dilation + np.arange(windows) * stride - pad
    return found


@operator("col2im", parameters=Col2imParameters)
def _col2im(params: Col2imParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    batch, channels, *sizes = shape_of(node.outputs[0])
    places = [_places(params, axis, size) for axis, size in enumerate(sizes)]
    kernel, windows = params.kernel, [p.shape[1] for p in places]
    data = w.transpose(w.reshape(inputs[0], (batch, channels, *kernel, *windows)), (0, 1, 2, 4, 3, 5))
    data = w.reshape(data, (batch, channels, places[0].size, places[1].size))
    for axis, size in enumerate(sizes):
        summands = [np.flatnonzero(places[axis].ravel() == pixel) for pixel in range(size)]
        most = max(len(found) for found in summands)
        count = places[axis].size
        table = np.array([[*found, *[count] * (most - len(found))] for found in summands], np.int64)
        data = sum_places(data, (4, axis + 2), count, table.reshape(size, most), w)
    return [data]
