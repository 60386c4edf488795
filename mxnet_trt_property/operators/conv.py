"""Convolution and deconvolution over one, two or three spatial axes.

With channels first weights have ONNX's layout already: (filters, channels / groups, ...) for Convolution and
(channels, filters / groups, ...) for Deconvolution. With channels last MXNet puts the weight's second axis last, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import (
    channels_first,
    channels_last,
    check_weights,
    is_channels_last,
    shape_of,
    spatial_sizes,
    spread,
)
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason


@dataclass(frozen=True)
class ConvolutionParameters(Parameters):
    """Parameters of Convolution; a `layout` of None is channels first."""

    kernel: tuple[int, ...]
    num_filter: int
    stride: tuple[int, ...] = ()
    dilate: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()
    num_group: int = 1
    no_bias: bool = False
    layout: Optional[str] = None


@dataclass(frozen=True)
class DeconvolutionParameters(Parameters):
    """Parameters of Deconvolution; note that `no_bias` defaults to True here."""

    kernel: tuple[int, ...]
    num_filter: int
    stride: tuple[int, ...] = ()
    dilate: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()
    adj: tuple[int, ...] = ()
    target_shape: tuple[int, ...] = ()
    num_group: int = 1
    no_bias: bool = True
    layout: Optional[str] = None


def _check_convolution(params: ConvolutionParameters, node: NodeInfo) -> Optional[str]:
    return check_weights(node, (1, 2), ("weight", "bias"))


def _check_old_convolution(params: ConvolutionParameters, node: NodeInfo) -> Optional[str]:
    # It takes the layout and then reads the data with channels first.
    if is_channels_last(params.layout):
        return reason("layout", found=params.layout, required="channels first")
    # MXNet does not see that a dilated kernel is larger than the image, and reads beyond it.
    if any(d > 1 for d in params.dilate):
        return reason("dilate", found=params.dilate, required=1)
    return _check_convolution(params, node)


def _convolve(op_type: str, layout: Optional[str], inputs: Sequence[str], w: OnnxWriter, **attributes: Any) -> str:
    """Writes a Conv or ConvTranspose, between transpositions where the channels are last."""
    if not is_channels_last(layout):
        return w.node(op_type, inputs, **attributes)
    ndim = len(attributes["kernel_shape"]) + 2
    data, weight, *bias = inputs
    result = w.node(op_type, [channels_first(data, ndim, w), channels_first(weight, ndim, w), *bias], **attributes)
    return channels_last(result, ndim, w)


@operator("Convolution_v1", parameters=ConvolutionParameters, check=_check_old_convolution, weights=(1, 2))
@operator("Convolution", parameters=ConvolutionParameters, check=_check_convolution, weights=(1, 2))
def _convolution(params: ConvolutionParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    ndim = len(params.kernel)
    name = _convolve(
        "Conv",
        params.layout,
        inputs,
        w,
        kernel_shape=list(params.kernel),
        strides=spread(params.stride, 1, ndim),
        dilations=spread(params.dilate, 1, ndim),
        pads=spread(params.pad, 0, ndim) * 2,
        group=params.num_group,
    )
    return [name]


def _check_deconvolution(params: DeconvolutionParameters, node: NodeInfo) -> Optional[str]:
    ndim = len(params.kernel)
    if any(s > 1 for s in params.stride) and any(d > 1 for d in params.dilate):
        found = f"stride {params.stride} with dilate {params.dilate}"
        return reason("deconvolution", found=found, required="a stride or a dilation, as no TensorRT has both")
    if any(params.target_shape):
        if len(params.target_shape) != ndim or not all(size > 0 for size in params.target_shape):
            return reason("target_shape", found=params.target_shape, required=f"empty, or {ndim} positive sizes")
        if node.inputs[0].shape is None:
            return needs_shape("target_shape")
        pads, _ = _target_pads(params, spatial_sizes(node.inputs[0].shape, params.layout))
        # oneDNN's deconvolution uses the given pad all the same, so only a pad that agrees means one thing.
        if any(params.pad) and list(params.pad) != pads:
            return reason("pad beside target_shape", found=params.pad, required=f"none or {tuple(pads)}")
    return check_weights(node, (1, 2), ("weight", "bias"))


def _target_pads(params: DeconvolutionParameters, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns the pad and adj that a target shape stands for.

    The surplus of the unpadded output over the target is cut from both sides, and one of the two cuts is a
    pixel shorter where the surplus is odd.
    """
    ndim = len(params.kernel)
    strides, dilations = spread(params.stride, 1, ndim), spread(params.dilate, 1, ndim)
    surplus = [
        s * (size - 1) + 1 + (k - 1) * d - target
        for s, size, k, d, target in zip(strides, sizes, params.kernel, dilations, params.target_shape)
    ]
    return [(n + 1) // 2 for n in surplus], [n % 2 for n in surplus]


@operator("Deconvolution", parameters=DeconvolutionParameters, check=_check_deconvolution, weights=(1, 2))
def _deconvolution(
    params: DeconvolutionParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    ndim = len(params.kernel)
    strides, dilations = spread(params.stride, 1, ndim), spread(params.dilate, 1, ndim)
    pads, adj = spread(params.pad, 0, ndim), spread(params.adj, 0, ndim)
    if any(params.target_shape):
        # A target shape overrides adj.
        pads, adj = _target_pads(params, spatial_sizes(shape_of(node.inputs[0]), params.layout))
    name = _convolve(
        "ConvTranspose",
        params.layout,
        inputs,
        w,
        kernel_shape=list(params.kernel),
        strides=strides,
        dilations=dilations,
        pads=pads * 2,
        output_padding=adj if any(adj) else None,
        group=params.num_group,
    )
    return [name]
