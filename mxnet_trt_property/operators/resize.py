"""Operators that resample images: UpSampling, bilinear resizing, and the moves between depth and space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator, reason


@dataclass(frozen=True)
class UpSamplingParameters(Parameters):
    """Parameters of UpSampling; `num_filter` serves bilinear sampling only."""

    IGNORED = Parameters.IGNORED | {"num_filter"}

    scale: int
    sample_type: str
    num_args: int
    multi_input_mode: str = "concat"


def _check_upsampling(params: UpSamplingParameters, node: NodeInfo) -> Optional[str]:
    if params.sample_type != "nearest" or params.num_args != 1:
        found = f"{params.sample_type} with {params.num_args} inputs"
        return reason("sampling", found=found, required="nearest with 1 input")
    return None


@operator("UpSampling", parameters=UpSamplingParameters, check=_check_upsampling)
def _upsampling(params: UpSamplingParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    scales = w.constant(np.array([1, 1, params.scale, params.scale], dtype=np.float32))
    # Output pixel i comes from input pixel floor(i / scale).
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return [w.node("Resize", [inputs[0], "", scales], **attributes)]


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
    # In every mode MXNet samples by the ratio of the two sizes, never by the scale that was asked for.
    # A size of 1 is the first pixel, where half_pixel alone would take the middle.
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
