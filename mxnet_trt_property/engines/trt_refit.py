"""Refitting: giving a built TensorRT engine new weights, and finding out beforehand whether that is safe.

TensorRT's OnnxParserRefitter sets the weights that the engine lists as refittable, from a model of the same structure,
and fails where it cannot set one of those. It says nothing of a weight that the engine does not list: one that was
computed into something else at build time would keep its old value. So an engine counts as refittable only if every
weight of its model is listed (`check_covered`), and a model fits it only if nothing but listed weights differs from
the model it was built from (`Outline.misfit`).

The parser merges the four parameters of a BatchNormalization into a scale and a shift, which the engine lists under
names of the parser's own. Those are counted: two for each such node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mxnet_trt_property.engines.registry import RefitError
from mxnet_trt_property.errors import message

if TYPE_CHECKING:
    from mxnet_trt_property.engines.trt_build import Library

# A refit runs kernels that rearrange the weights, outside of any graph of ours. Where kernels overlap that must not
# (trt_program.py) nothing keeps those apart, so engines are built again there; ci/gpu/verify_refit.py sets this to
# look.
TRUST_OVERLAPPING_KERNELS = False

# ONNX's TensorProto element types of real numbers: float32, float16, float64, bfloat16.
_REAL = (1, 10, 11, 16)
_VALUE_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
# How many names a message lists.
_SHOWN = 3


@dataclass(frozen=True)
class Outline:
    """What a refit may not change in an ONNX model, and what it has to be able to.

    Attributes:
        structure: A digest of the model without the values of its initializers.
        values: A digest of the values of each initializer, by name.
        weights: The initializers that the engine must list as refittable: real arrays that a node computes with and
            that the converter did not mark as constants.
        merged: The initializers that the parser merges into a scale and a shift.
        batch_normalizations: How many nodes it merges them for.
    """

    structure: bytes
    values: Mapping[str, bytes]
    weights: frozenset[str]
    merged: frozenset[str]
    batch_normalizations: int

    def misfit(self, new: Outline) -> str:
        """Returns why an engine built from the model of this outline cannot take the weights of `new`, or ""."""
        if self.structure != new.structure:
            return "the ONNX model itself differs with the new weights"
        changed = {name for name, value in new.values.items() if self.values.get(name) != value}
        fixed = sorted(changed - self.weights - self.merged)
        if fixed:
            return f"values that are no refittable weights differ: {_listed(fixed)}"
        return ""


def outline(model: bytes) -> Outline:
    """Returns the outline of a serialized ONNX model."""
    import onnx

    from mxnet_trt_property.onnx_writer import CONSTANT  # not above: a loaded model runs without onnx

    proto = onnx.load_from_string(model)
    values: dict[str, bytes] = {}
    arrays: set[str] = set()
    for tensor in proto.graph.initializer:
        digest = hashlib.blake2b(digest_size=16)
        for field in _VALUE_FIELDS:
            content = getattr(tensor, field)
            digest.update(content if isinstance(content, bytes) else repr(list(content)).encode())
            tensor.ClearField(field)
        values[tensor.name] = digest.digest()
        if tensor.data_type in _REAL and tensor.dims and tensor.doc_string != CONSTANT:
            arrays.add(tensor.name)
    merged: set[str] = set()
    read: set[str] = set()
    count = 0
    for node in proto.graph.node:
        if node.op_type == "BatchNormalization" and all(name in values for name in node.input[1:5]):
            merged.update(node.input[1:5])
            count += 1
        elif node.op_type != "Resize":  # whose scales the parser reads itself
            read.update(node.input)
    structure = hashlib.blake2b(proto.SerializeToString(deterministic=True), digest_size=16).digest()
    return Outline(structure, values, frozenset(arrays & read), frozenset(merged), count)


def check_covered(library: Library, engine: Any, plan: Outline, what: str) -> None:
    """Refuses an engine in which a weight of its model cannot be changed.

    Args:
        library: The bindings.
        engine: The engine, loaded on the device that is current.
        plan: The outline of the model it was built from.
        what: What cannot be done otherwise, for the message.

    Raises:
        RefitError: The engine is not refittable, or does not list each weight.
    """
    mark = library.mark()
    try:
        names = set(library.module().Refitter(engine, library.logger).get_all_weights())
    except Exception as error:  # the bindings turn a null pointer into a TypeError or RuntimeError
        raise RefitError(message(what, found=f"{error} ({library.words(mark)})")) from error
    hidden = sorted(plan.weights - names)
    if hidden:
        raise RefitError(message(what, found=f"weights that the engine does not list: {_listed(hidden)}"))
    merged = len(names - set(plan.values))
    if merged < 2 * plan.batch_normalizations:
        found = f"{merged} merged weights for {plan.batch_normalizations} batch normalizations"
        raise RefitError(message(what, found=found, required="a scale and a shift for each"))


def refit(library: Library, engine: Any, model: bytes, what: str) -> None:
    """Gives an engine the weights of a model; nothing that uses the engine may be under way.

    Args:
        library: The bindings.
        engine: The engine, loaded on the device that is current.
        model: A serialized ONNX model that `Outline.misfit` has nothing against.
        what: What failed if it fails, for the message.

    Raises:
        RefitError: It failed; the engine may hold weights of both models and must not be run any more.
    """
    trt = library.module()
    mark = library.mark()
    try:
        refitter = trt.Refitter(engine, library.logger)
        parser = trt.OnnxParserRefitter(refitter, library.logger)
        done = parser.refit_from_bytes(model)
        words = "" if done else _words(parser)
        missing = refitter.get_missing_weights() if done else ()
        done = done and not missing and refitter.refit_cuda_engine()
    except Exception as error:
        raise RefitError(message(what, found=f"{error} ({library.words(mark)})")) from error
    if not done:
        found = f"missing weights: {_listed(sorted(missing))}" if missing else words or library.words(mark)
        raise RefitError(message(what, found=found))


def _words(parser: Any) -> str:
    return "; ".join(" ".join(parser.get_error(i).desc().split()) for i in range(parser.num_errors))


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
