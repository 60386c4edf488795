"""The matrix products of multi-head attention on projections that are interleaved head by head.

The layout is (sequence, batch, heads x parts x head size): for each head its query, key and value lie side by side, or
its key and value. As (sequence, batch x heads, parts, head size) they come apart by an index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import dtype_of, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason


@dataclass(frozen=True)
class AttentionParameters(Parameters):
    """Parameters of the interleaved products."""

    heads: int


# How many parts the first and, of encdec_qk, the second input holds.
_PARTS = {
    "_contrib_interleaved_matmul_selfatt_qk": (3,),
    "_contrib_interleaved_matmul_selfatt_valatt": (3,),
    "_contrib_interleaved_matmul_encdec_qk": (1, 2),
    "_contrib_interleaved_matmul_encdec_valatt": (2,),
}


def _check(params: AttentionParameters, node: NodeInfo) -> Optional[str]:
    for tensor, parts in zip(node.inputs, _PARTS[node.op]):
        if tensor.shape is None:
            return needs_shape("size of the projections")
        if params.heads < 1 or tensor.shape[-1] % (params.heads * parts):
            found = f"{tensor.shape[-1]} for {params.heads} heads"
            return reason("size of the projections", found=found, required=f"a multiple of {parts} times the heads")
    return None


def _heads_of(name: str, shape: tuple[int, ...], heads: int, parts: int, w: OnnxWriter) -> str:
    """Writes the projections as (sequence, batch x heads, parts, head size)."""
    length, batch, size = shape
    return w.reshape(name, (length, batch * heads, parts, size // (heads * parts)))


def _part(heads_of: str, index: int, axes: Sequence[int], w: OnnxWriter) -> str:
    """Writes one part, (sequence, batch x heads, head size), with its axes permuted."""
    part = w.node("Gather", [heads_of, w.constant(np.array(index, np.int64))], axis=2)
    return w.transpose(part, axes)


def _scores(query: str, key: str, size: int, node: NodeInfo, w: OnnxWriter) -> str:
    """Writes query key^T / sqrt(head size)."""
    return w.node("Mul", [w.node("MatMul", [query, key]), w.scalar(1 / math.sqrt(size), dtype_of(node.inputs[0]))])


@operator("_contrib_interleaved_matmul_selfatt_qk", parameters=AttentionParameters, check=_check)
def _selfatt_qk(params: AttentionParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.inputs[0])
    heads = _heads_of(inputs[0], shape, params.heads, 3, w)
    query, key = _part(heads, 0, (1, 0, 2), w), _part(heads, 1, (1, 2, 0), w)
    return [_scores(query, key, shape[-1] // (3 * params.heads), node, w)]


@operator("_contrib_interleaved_matmul_encdec_qk", parameters=AttentionParameters, check=_check)
def _encdec_qk(params: AttentionParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.inputs[0])
    query = _part(_heads_of(inputs[0], shape, params.heads, 1, w), 0, (1, 0, 2), w)
    key = _part(_heads_of(inputs[1], shape_of(node.inputs[1]), params.heads, 2, w), 0, (1, 2, 0), w)
    return [_scores(query, key, shape[-1] // params.heads, node, w)]


@operator("_contrib_interleaved_matmul_selfatt_valatt", parameters=AttentionParameters, check=_check)
@operator("_contrib_interleaved_matmul_encdec_valatt", parameters=AttentionParameters, check=_check)
def _valatt(params: AttentionParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    parts = _PARTS[node.op][0]
    # The value is the last part.
    value = _part(_heads_of(inputs[0], shape_of(node.inputs[0]), params.heads, parts, w), parts - 1, (1, 0, 2), w)
    context = w.transpose(w.node("MatMul", [inputs[1], value]), (1, 0, 2))
    return [w.reshape(context, shape_of(node.outputs[0]))]
