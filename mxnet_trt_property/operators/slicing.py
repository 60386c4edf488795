"""Operators that cut, split, pad and repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import ELEMENTS, NUMBERS, dtype_of, positive, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason


@dataclass(frozen=True)
class SliceParameters(Parameters):
    """Parameters of slice: Python's slices of the first axes, with None where a bound is left out."""

    begin: tuple[Optional[int], ...]
    end: tuple[Optional[int], ...]
    step: tuple[Optional[int], ...] = ()


@operator("slice", parameters=SliceParameters, dtypes=ELEMENTS)
def _slice(params: SliceParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    starts, ends, steps = [], [], []
    step = params.step or (None,) * len(params.begin)
    for size, bounds in zip(shape_of(node.inputs[0]), zip(params.begin, params.end, step)):
        cut = range(*slice(*bounds).indices(size))
        starts.append(cut.start)
        # Backwards to the very first element ends before it, and -1 would mean the last one.
        ends.append(cut.stop if cut.stop >= 0 else -size - 1)
        steps.append(cut.step)
    return [w.slice(inputs[0], range(len(starts)), starts, ends, steps)]


@dataclass(frozen=True)
class SliceAxisParameters(Parameters):
    """Parameters of slice_axis."""

    axis: int
    begin: int
    end: Optional[int]


@operator("slice_axis", parameters=SliceAxisParameters, dtypes=NUMBERS)
def _slice_axis(params: SliceAxisParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.inputs[0])
    axis = positive(params.axis, len(shape))
    cut = range(*slice(params.begin, params.end).indices(shape[axis]))
    return [w.slice(inputs[0], (axis,), (cut.start,), (cut.stop,), (1,))]


@dataclass(frozen=True)
class SliceLikeParameters(Parameters):
    """Parameters of slice_like; no axes means all of them."""

    axes: tuple[int, ...] = ()


def _check_slice_like(params: SliceLikeParameters, node: NodeInfo) -> Optional[str]:
    if any(tensor.shape is None for tensor in node.inputs):
        return needs_shape("shape_like")
    return None


# Only the shape of the second input is read, and a shape is part of what an engine is built for.
@operator("slice_like", parameters=SliceLikeParameters, check=_check_slice_like, ignored=(1,), dtypes=NUMBERS)
def _slice_like(params: SliceLikeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    axes = [i for i, (b, a) in enumerate(zip(before, after)) if b != a]
    if not axes:
        return [inputs[0]]
    return [w.slice(inputs[0], axes, [0] * len(axes), [after[i] for i in axes], [1] * len(axes))]


@dataclass(frozen=True)
class SliceChannelParameters(Parameters):
    """Parameters of SliceChannel."""

    num_outputs: int
    axis: int = 1
    squeeze_axis: bool = False


@operator("SliceChannel", parameters=SliceChannelParameters, dtypes=NUMBERS)
def _slice_channel(
    params: SliceChannelParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    parts = [inputs[0]]
    if params.num_outputs > 1:
        parts = w.nodes("Split", inputs, params.num_outputs, axis=params.axis)
    return [w.squeeze(part, (params.axis,)) for part in parts] if params.squeeze_axis else parts


@dataclass(frozen=True)
class SplitParameters(Parameters):
    """Parameters of _split_v2: where the parts begin, or into how many equal parts to split."""

    indices: tuple[int, ...]
    axis: int = 1
    squeeze_axis: bool = False
    sections: int = 0


def _check_split(params: SplitParameters, node: NodeInfo) -> Optional[str]:
    if not node.outputs or any(tensor.shape is None for tensor in node.outputs):
        return needs_shape("size of each part, which must not be 0,")
    return None


@operator("_split_v2", parameters=SplitParameters, check=_check_split, dtypes=NUMBERS)
def _split(params: SplitParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    axis = positive(params.axis, len(shape_of(node.inputs[0])))
    sizes = [1 if params.squeeze_axis else shape_of(tensor)[axis] for tensor in node.outputs]
    parts = [inputs[0]]
    if len(sizes) > 1:
        parts = w.nodes("Split", [inputs[0], w.ints(sizes)], len(sizes), axis=axis)
    return [w.squeeze(part, (axis,)) for part in parts] if params.squeeze_axis else parts


@dataclass(frozen=True)
class CropParameters(Parameters):
    """Parameters of Crop; with a second input the size is that of its last two axes."""

    num_args: int
    offset: tuple[int, ...] = (0, 0)
    h_w: tuple[int, ...] = (0, 0)
    center_crop: bool = False


@operator("Crop", parameters=CropParameters, ignored=(1,))
def _crop(params: CropParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    before, after = shape_of(node.inputs[0])[2:], shape_of(node.outputs[0])[2:]
    starts = [(b - a) // 2 for b, a in zip(before, after)] if params.center_crop else list(params.offset)
    return [w.slice(inputs[0], (2, 3), starts, [s + a for s, a in zip(starts, after)], (1, 1))]


@dataclass(frozen=True)
class ReverseParameters(Parameters):
    """Parameters of reverse and _npi_flip."""

    axis: tuple[int, ...]


@operator("reverse", parameters=ReverseParameters, dtypes=NUMBERS)
def reverse(params: ReverseParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    """Reverses the order along axes."""
    sizes = shape_of(node.inputs[0])
    axes = [positive(a, len(sizes)) for a in params.axis]
    ends = [-sizes[a] - 1 for a in axes]
    return [w.slice(inputs[0], axes, [-1] * len(axes), ends, [-1] * len(axes))]


@dataclass(frozen=True)
class PadParameters(Parameters):
    """Parameters of Pad; `pad_width` is (before, after) of each axis in turn."""

    mode: str
    pad_width: tuple[int, ...]
    constant_value: float = 0.0


def _check_pad(params: PadParameters, node: NodeInfo) -> Optional[str]:
    if any(width < 0 for width in params.pad_width):
        return reason("pad_width", found=params.pad_width, required="no negative width")
    shape = node.inputs[0].shape
    if params.mode == "reflect" and shape is None:
        return needs_shape("mode reflect")
    widths = zip(params.pad_width[::2], params.pad_width[1::2], shape or ())
    # ONNX mirrors each element once at most.
    if params.mode == "reflect" and any(max(before, after) >= size for before, after, size in widths):
        return reason("pad_width of mode reflect", found=params.pad_width, required=f"less than the sizes, {shape}")
    return None


@operator("Pad", parameters=PadParameters, check=_check_pad)
def _pad(params: PadParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    value = w.scalar(params.constant_value, dtype_of(node.inputs[0])) if params.mode == "constant" else ""
    return [w.pad(inputs[0], params.pad_width[::2], params.pad_width[1::2], value, params.mode)]


@dataclass(frozen=True)
class TileParameters(Parameters):
    """Parameters of tile."""

    reps: tuple[int, ...]


@operator("tile", parameters=TileParameters, dtypes=ELEMENTS)
def _tile(params: TileParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape, out = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    # The shorter one of shape and reps is filled with ones in front.
    data = inputs[0] if len(shape) == len(out) else w.reshape(inputs[0], (1,) * (len(out) - len(shape)) + shape)
    reps = (1,) * (len(out) - len(params.reps)) + params.reps
    return [w.node("Tile", [data, w.ints(reps)])]


@dataclass(frozen=True)
class RepeatParameters(Parameters):
    """Parameters of repeat; without an axis the input is flattened first."""

    repeats: int
    axis: Optional[int] = None


@operator("repeat", parameters=RepeatParameters, dtypes=ELEMENTS)
def _repeat(params: RepeatParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.inputs[0])
    # Each element becomes a row of its own, and a row is repeated by tiling.
    after = len(shape) if params.axis is None else positive(params.axis, len(shape)) + 1
    rows = w.reshape(inputs[0], [*shape[:after], 1, *shape[after:]])
    reps = [1] * after + [params.repeats] + [1] * (len(shape) - after)
    return [w.reshape(w.node("Tile", [rows, w.ints(reps)]), shape_of(node.outputs[0]))]
