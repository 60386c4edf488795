"""Operators that resample images: UpSampling, bilinear resizing, and the moves between depth and space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator


@dataclass(frozen=True)
class UpSamplingParameters(Parameters):
    """Parameters of UpSampling; `num_filter` serves bilinear sampling only."""

    IGNORED = Parameters.IGNORED | {"num_filter"}

    scale: int
    sample_type: str
    num_args: int
    multi_input_mode: str = "concat"


@operator("UpSampling", parameters=UpSamplingParameters)
def _upsampling(params: UpSamplingParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    if params.sample_type == "bilinear":
        return [_learned_upsampling(params.scale, shape_of(node.inputs[0])[1], inputs, w)]
    height = shape_of(node.outputs[0])[2]
    parts = [_nearest(name, height // shape_of(tensor)[2], w) for name, tensor in zip(inputs, node.inputs)]
    if len(parts) == 1:
        return parts
    if params.multi_input_mode == "sum":
        return [reduce(lambda left, right: w.node("Add", [left, right]), parts)]
    return [w.node("Concat", parts, axis=1)]


def _nearest(name: str, scale: int, w: OnnxWriter) -> str:
    scales = w.constant(np.array([1, 1, scale, scale], dtype=np.float32))
    # Output pixel i comes from input pixel floor(i / scale).
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return w.node("Resize", [name, "", scales], **attributes)


def _learned_upsampling(scale: int, channels: int, inputs: Sequence[str], w: OnnxWriter) -> str:
    """Writes bilinear sampling as MXNet has it: a deconvolution of each channel by a weight that is an input."""
    kernel, pad = 2 * scale - scale % 2, scale // 2
    return w.node(
        "ConvTranspose",
        inputs,
        kernel_shape=[kernel] * 2,
        strides=[scale] * 2,
        pads=[pad] * 4,
        group=channels,
    )


@dataclass(frozen=True)
class BilinearResize2DParameters(Parameters):
    """Parameters of _contrib_BilinearResize2D; only `align_corners` is left once the output's size is known."""

    IGNORED = Parameters.IGNORED | {"height", "width", "scale_height", "scale_width", "mode"}

    align_corners: bool = True


@operator("_contrib_BilinearResize2D", parameters=BilinearResize2DParameters, ignored=(1,))
def _bilinear(
    params: BilinearResize2DParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if before == after:
        return [inputs[0]]
    # In every mode MXNet samples by the ratio of the two sizes, never by the scale that was asked for. An output of
    # one pixel is the first one of the input, which of all half pixel modes is only so in PyTorch's.
    mode = "align_corners" if params.align_corners else "pytorch_half_pixel"
    resized = w.node("Resize", [inputs[0], "", "", w.ints(after)], mode="linear", coordinate_transformation_mode=mode)
    return [resized]


@dataclass(frozen=True)
class BlockParameters(Parameters):
    """Parameters of depth_to_space and space_to_depth."""

    block_size: int


# Both take the block's position as the slower index of the channels, which ONNX calls DCR.
@operator("depth_to_space", parameters=BlockParameters)
def _depth_to_space(params: BlockParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node("DepthToSpace", inputs, blocksize=params.block_size, mode="DCR")]


@operator("space_to_depth", parameters=BlockParameters)
def _space_to_depth(params: BlockParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node("SpaceToDepth", inputs, blocksize=params.block_size)]
