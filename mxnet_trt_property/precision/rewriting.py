"""Plans a model's precision, and rewrites the model by the plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Optional

import onnx

from mxnet_trt_property.logs import warn_once
from mxnet_trt_property.precision import tables
from mxnet_trt_property.precision.bfloat16 import to_bfloat16
from mxnet_trt_property.precision.float16 import FLOAT16_MAX, to_float16
from mxnet_trt_property.precision.int8 import to_int8
from mxnet_trt_property.precision.plans import Plan
from mxnet_trt_property.precision.runtime import Feed
from mxnet_trt_property.precision.scan import BFLOAT16_MAX, look

_log = logging.getLogger("mxnet_trt_property")
_MAXIMA = {"fp16": FLOAT16_MAX, "bf16": BFLOAT16_MAX}


def plan(
    model: bytes,
    kind: str,
    keep: tuple[str, ...],
    label: str,
    *,
    feed: Optional[Feed] = None,
    table: Optional[tables.Ranges] = None,
    keys: Optional[Mapping[str, str]] = None,
    owners: Optional[Mapping[str, str]] = None,
) -> Plan:
    """Returns what `rewrite` needs to know, and logs which nodes stay in float32 because of what was seen.

    Args:
        model: A serialized ONNX model with its weights, written by `convert`.
        kind: One of engines.registry.IMPLEMENTED_PRECISIONS.
        keep: MXNet's nodes (by name) and operators that stay in float32.
        label: What messages call the model.
        feed: Sample inputs for "fp16" and "bf16"; without them nothing is run.
        table: The calibration for "int8", by the keys of a table.
        keys: For ONNX values their keys in a table.
        owners: For ONNX nodes the names of MXNet's nodes.

    Raises:
        EngineError: ONNX Runtime is missing, or refuses the model.
    """
    if kind == "int8":
        values = sorted({name for node in onnx.load_from_string(model).graph.node for name in node.input[:1]})
        return Plan(kind, keep, (), tables.by_value(table or {}, keys or {}, values))
    if kind not in _MAXIMA or feed is None:
        return Plan(kind, keep)
    found = look(model, kind, keep, feed, label)
    names = owners or {}
    largest: dict[str, float] = {}
    for node, peak in found.peaks.items():
        name = names.get(node, node)
        largest[name] = max(peak, largest.get(name, 0.0))
    for name, peak in largest.items():
        narrow = {"fp16": "float16", "bf16": "bfloat16"}[kind]
        warn_once(
            f"{label}: node {name} stays in float32: it met a value of {peak:.3g}, and {narrow} ends at "
            f"{_MAXIMA[kind]:.3g}",
            next_step=f"nothing, results are right; MXNET_TENSORRT_KEEP_FP32={name} says so beforehand",
        )
    if found.sensitive:
        _log.info(
            "%s: the first %d layers stay in float32 (%s): without them the relative error on the first inputs is %.1e",
            label,
            len(found.sensitive),
            ", ".join(names.get(node, node) for node in found.sensitive),
            found.error,
        )
    return Plan(kind, keep, tuple(sorted({*found.peaks, *found.sensitive})))


def rewrite(
    model: bytes, found: Plan, label: str, *, has_bfloat16: bool, no_int8: Callable[[], Collection[str]] = frozenset
) -> bytes:
    """Returns the model that an engine builds.

    Args:
        model: A serialized ONNX model with its weights, written by `convert`.
        found: What `plan` said of it.
        label: What messages call the model.
        has_bfloat16: Whether the engine has kernels for bfloat16.
        no_int8: Returns the ONNX operators that the engine does not build in int8.

    Raises:
        EngineError: ONNX Runtime, which has the tools, is missing, or it failed.
    """
    if found.kind == "fp16":
        return to_float16(model, found.keep, found.near, label)
    if found.kind == "bf16":
        return to_bfloat16(model, found.keep, found.near, native=has_bfloat16)
    if found.kind == "int8":
        return to_int8(model, found.keep, found.ranges, label, no_int8())
    return model
