"""The operator registry: for each MXNet operator one entry that holds all this package knows of it.

An entry has three parts: the parsed parameters (a frozen dataclass whose field names, types and
defaults are MXNet's own), `check` (None, or the reason in words why a node cannot be taken) and `emit`
(the ONNX nodes). The partitioner, the converter, the generated table and the completeness test read the
entries; no other module names an operator.
"""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Optional, Union

import numpy as np

from mxnet_trt_property.graph import Tensor

if TYPE_CHECKING:
    from mxnet_trt_property.onnx_writer import OnnxWriter

FLOATS = (np.dtype("float32"), np.dtype("float16"))
"""The dtypes that an operator takes unless its entry says otherwise."""

RESULTS = (*FLOATS, np.dtype("int32"), np.dtype("int64"), np.dtype("bool"))
"""The dtypes that an array out of an engine may have unless the entry says otherwise."""


class ParameterError(ValueError):
    """A node's attribute text does not parse as its parameter's type."""


@dataclass(frozen=True)
class Parameters:
    """Base of all parameter records; an operator without parameters uses it as it is.

    Each field is named as in MXNet, with MXNet's default (a field without one is required). Supported
    annotations: bool, int, float, str, `tuple[int, ...]`, `tuple[float, ...]`, `tuple[Optional[int], ...]`, and
    Optional of these. Attributes that a record does not declare are refused unless listed in `IGNORED`: an attribute
    that nobody reads must not change results.
    """

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        {"cudnn_tune", "cudnn_off", "workspace", "cudnn_algo_verbose", "cudnn_algo_fwd", "cudnn_algo_bwd_data",
         "cudnn_algo_bwd_filter", "cudnn_algo_fwd_prec", "cudnn_algo_bwd_prec", "cudnn_tensor_core_only"}
    )  # fmt: skip

    @classmethod
    def parse(cls, attrs: Mapping[str, str]) -> Parameters:
        """Returns the record for a node's attribute texts.

        Raises:
            ParameterError: A text does not parse, a required one is missing, or one is unknown.
        """
        hints = _type_hints(cls)
        names = {f.name for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for key, text in attrs.items():
            if key in names:
                values[key] = _parse(cls.__name__, key, text, hints[key])
            elif not (key.startswith("__") and key.endswith("__")) and key not in cls.IGNORED:
                raise ParameterError(f"attribute {key}={text!r} is not one that this operator is known to have")
        try:
            return cls(**values)
        except TypeError as error:
            raise ParameterError(f"a required attribute is missing ({error})") from error


def _type_hints(record: type[Parameters]) -> Mapping[str, Any]:
    """Returns the annotations of a record, evaluated; Python takes longer for that than for all else in `parse`."""
    if record not in _TYPE_HINTS:
        _TYPE_HINTS[record] = typing.get_type_hints(record)
    return _TYPE_HINTS[record]


_TYPE_HINTS: dict[type[Parameters], Mapping[str, Any]] = {}


def _parse(owner: str, key: str, text: str, kind: Any) -> Any:
    """Parses one attribute text as dmlc's parameter module prints it ("True", "1", "(3, 3)", "3", "None")."""
    if typing.get_origin(kind) is Union:
        if text == "None":
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    try:
        if kind is bool:
            return {"True": True, "true": True, "1": True, "False": False, "false": False, "0": False}[text]
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
        if kind is str:
            return text
        value = ast.literal_eval(text)
        items = value if isinstance(value, (tuple, list)) else (value,)
        if typing.get_args(kind)[0] is float:
            return tuple(float(v) for v in items)
        # Only slice has a None inside a tuple; everywhere else int(None) is the TypeError that it should be.
        has_none = typing.get_origin(typing.get_args(kind)[0]) is Union
        return tuple(None if v is None and has_none else int(v) for v in items)
    except (KeyError, ValueError, SyntaxError, TypeError) as error:
        raise ParameterError(f"attribute {key}={text!r} does not parse as {owner}.{key}: {kind}") from error


@dataclass(frozen=True)
class NodeInfo:
    """What `check` and `emit` see of a node.

    Attributes:
        name: The node's name, for messages and for the names of ONNX nodes.
        op: MXNet's canonical operator name.
        inputs: One Tensor an input slot. Shapes and dtypes may be None in `check`; in `emit` all are known.
        outputs: One Tensor for each visible output.
    """

    name: str
    op: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def reason(what: str, *, found: object, required: object) -> str:
    """Returns the text of one refusal: what was looked at, what was found, what would have been taken."""
    return f"{what}: found {found}, required {required}"


def needs_shape(what: str) -> str:
    """Returns the refusal of a node that is convertible for some shapes only while its shape is unknown."""
    return reason(what, found="an unknown shape", required="a shape that is known when the graph is partitioned")


Check = Callable[[Any, NodeInfo], Optional[str]]
Emit = Callable[[Any, NodeInfo, Sequence[str], "OnnxWriter"], Sequence[str]]


@dataclass(frozen=True)
class Operator:
    """One registry entry.

    Attributes:
        name: MXNet's canonical `op()->name`.
        parameters: The record type that `parse` fills.
        check: `check(params, node)`: None, or the reason why this node cannot be taken.
        emit: `emit(params, node, input_names, writer)`: writes ONNX nodes and returns the name of the ONNX
            value for each visible output. An empty input name stands for an input in `ignored`.
        weights: Input slots whose variables become initializers and are watched for new values.
        ignored: Input slots that inference never reads (labels).
        dtypes: The dtypes taken for all inputs that are not ignored.
        folds: Whether a result that is read as a weight only is computed when the engine is built: then the
            variables behind it are weights, too.
        zero_dim: Whether 0-d arrays are taken, which MXNet has with NumPy's semantics only.
        results: The dtypes that outputs may have.
    """

    name: str
    parameters: type[Parameters]
    check: Check
    emit: Emit
    weights: tuple[int, ...] = ()
    ignored: tuple[int, ...] = ()
    dtypes: tuple[np.dtype[Any], ...] = FLOATS
    folds: bool = False
    zero_dim: bool = False
    results: tuple[np.dtype[Any], ...] = RESULTS

    @property
    def is_conditional(self) -> bool:
        """Whether `check` can refuse a node."""
        return self.check is not _always

    @property
    def counts_integers(self) -> bool:
        """Whether the entry computes on int8, whose integers no narrower float may round."""
        return np.dtype("int8") in self.results

    def refusal(self, params: Parameters, node: NodeInfo) -> Optional[str]:
        """Returns the reason why `node` cannot be taken, or None: the shared dtype rule, then `check`."""
        for slot, tensor in enumerate(node.inputs):
            if slot in self.ignored or tensor.dtype is None or tensor.dtype in self.dtypes:
                continue
            names = " or ".join(d.name for d in self.dtypes)
            return reason(f"dtype of input {slot}", found=tensor.dtype.name, required=names)
        return self._unfit(node) or self.check(params, node) or self._unfit_result(node)

    def _unfit(self, node: NodeInfo) -> Optional[str]:
        """Returns why an array of the node has a shape that is not taken, or None."""
        for kind, tensors in (("input", node.inputs), ("output", node.outputs)):
            for slot, tensor in enumerate(tensors):
                if tensor.shape is not None and 0 in tensor.shape:
                    return reason(f"shape of {kind} {slot}", found=tensor.shape, required="no axis of size 0")
                if tensor.shape == () and not self.zero_dim:
                    return reason(f"shape of {kind} {slot}", found="a 0-d array", required="one axis or more")
        return None

    def _unfit_result(self, node: NodeInfo) -> Optional[str]:
        """Returns why an output has a dtype that engines do not have, or None."""
        for slot, tensor in enumerate(node.outputs):
            if tensor.dtype is not None and tensor.dtype not in self.results:
                names = ", ".join(d.name for d in self.results)
                return reason(f"dtype of output {slot}", found=tensor.dtype.name, required=f"one of {names}")
        return None


_OPERATORS: dict[str, Operator] = {}


def _always(params: Any, node: NodeInfo) -> Optional[str]:
    return None


def operator(
    *names: str,
    parameters: type[Parameters] = Parameters,
    check: Check = _always,
    weights: tuple[int, ...] = (),
    ignored: tuple[int, ...] = (),
    dtypes: tuple[np.dtype[Any], ...] = FLOATS,
    folds: bool = False,
    zero_dim: bool = False,
    results: tuple[np.dtype[Any], ...] = RESULTS,
) -> Callable[[Emit], Emit]:
    """Registers the decorated emit function as the entry for each name in `names`; the arguments are Operator's.

    Raises:
        ValueError: A name has an entry already; two entries for one operator would drift apart.
    """

    def register(emit: Emit) -> Emit:
        for name in names:
            if name in _OPERATORS:
                raise ValueError(f"operator '{name}' has an entry already ({_OPERATORS[name].emit.__module__})")
            _OPERATORS[name] = Operator(
                name, parameters, check, emit, weights, ignored, dtypes, folds, zero_dim, results
            )
        return emit

    return register


def find(name: str) -> Optional[Operator]:
    """Returns the entry for a canonical operator name, or None where there is none."""
    return _OPERATORS.get(name)


def all_operators() -> tuple[Operator, ...]:
    """Returns every entry, sorted by name."""
    return tuple(_OPERATORS[name] for name in sorted(_OPERATORS))
