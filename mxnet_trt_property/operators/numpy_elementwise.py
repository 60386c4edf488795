"""The element-by-element operators of mx.np and mx.npx, where they differ from those of mx.sym.

They broadcast, take operands of different dtypes, divide integers as floats, and answer comparisons with booleans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.binary import COMPARISONS, EXACT, FLOATING, Binary, compare, mod, swapped, truth
from mxnet_trt_property.operators.common import (
    ELEMENTS,
    INT32,
    NUMBERS,
    check_dtype,
    check_scalar_fits,
    check_whole,
    dtype_of,
)
from mxnet_trt_property.operators.elementwise import (
    ScalarParameters,
    check_scalar,
    of_tensors,
    power_scalar,
    with_scalar,
)
from mxnet_trt_property.operators.registry import FLOATS, Emit, NodeInfo, Parameters, operator
from mxnet_trt_property.operators.unary import EXACT_FUNCTIONS, FUNCTIONS, of_function

_UNARY_NAMES = {"absolute": "abs"} | {
    name: name
    for name in (
        "negative sign square reciprocal rint ceil floor trunc fix sqrt cbrt exp expm1 log log2 log10 log1p sin cos "
        "tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh degrees radians"
    ).split()
}


for _name, _base in _UNARY_NAMES.items():
    _dtypes = NUMBERS if _base in EXACT_FUNCTIONS else FLOATS
    operator(f"_npi_{_name}", dtypes=_dtypes, zero_dim=True)(of_function(FUNCTIONS[_base]))
for _name in ("relu", "sigmoid"):
    operator(f"_npx_{_name}", zero_dim=True)(of_function(FUNCTIONS[_name]))


@operator("_npi_logical_not", dtypes=ELEMENTS, zero_dim=True)
def _logical_not(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node("Not", [truth(inputs[0], dtype_of(node.inputs[0]), w)])]


@operator("_npi_isnan", zero_dim=True)
def _isnan(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node("IsNaN", inputs)]


@operator("_npi_isinf", zero_dim=True)
@operator("_npi_isposinf", zero_dim=True)
@operator("_npi_isneginf", zero_dim=True)
@operator("_npi_isfinite", zero_dim=True)
def _isinf(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    infinity = w.scalar(np.inf, dtype_of(node.inputs[0]))
    if node.op == "_npi_isposinf":
        return [w.node("Equal", [inputs[0], infinity])]
    if node.op == "_npi_isneginf":
        return [w.node("Equal", [inputs[0], w.scalar(-np.inf, dtype_of(node.inputs[0]))])]
    size = w.node("Abs", inputs)
    # No comparison holds for a NaN.
    return [w.node("Less" if node.op == "_npi_isfinite" else "Equal", [size, infinity])]


def _check_result(params: Parameters, node: NodeInfo) -> Optional[str]:
    """Returns why a result is refused whose dtype comes out of those of the operands."""
    name = node.op.replace("_npi_", "").split("_scalar")[0]
    return check_dtype("the result", node.outputs[0], _RESULTS[name]) if node.outputs else None


def _check_scalar(params: ScalarParameters, node: NodeInfo) -> Optional[str]:
    if not node.outputs:
        return None
    return _check_result(params, node) or check_scalar_fits("scalar", params.scalar, node.outputs[0].dtype)


# The name; the function; and the dtypes of its results that MXNet and the engines compute alike: MXNet takes powers of
# integers and the rest of an int64 in floats.
_ARITHMETIC: dict[str, tuple[Binary, tuple[np.dtype[Any], ...]]] = {
    "add": (EXACT["add"], NUMBERS),
    "subtract": (EXACT["sub"], NUMBERS),
    "multiply": (EXACT["mul"], NUMBERS),
    "true_divide": (FLOATING["div"], FLOATS),
    "power": (FLOATING["power"], FLOATS),
    "mod": (mod, (*FLOATS, INT32)),
}
_REVERSED = ("subtract", "true_divide", "power", "mod")
_RESULTS = {name: dtypes for name, (_, dtypes) in _ARITHMETIC.items()}
_RESULTS |= {f"r{name}": _RESULTS[name] for name in _REVERSED}

for _name, (_function, _) in _ARITHMETIC.items():
    operator(f"_npi_{_name}", check=_check_result, dtypes=ELEMENTS, zero_dim=True)(of_tensors(_function))
    _scalars = {f"_npi_{_name}_scalar": _function}
    if _name in _REVERSED:
        _scalars[f"_npi_r{_name}_scalar"] = swapped(_function)
    if _name == "power":
        del _scalars["_npi_power_scalar"]
    for _scalar_name, _scalar_function in _scalars.items():
        operator(_scalar_name, parameters=ScalarParameters, check=_check_scalar, dtypes=ELEMENTS, zero_dim=True)(
            with_scalar(_scalar_function)
        )


operator("_npi_power_scalar", parameters=ScalarParameters, check=_check_scalar, dtypes=ELEMENTS, zero_dim=True)(
    power_scalar
)
operator("_npi_hypot", zero_dim=True)(of_tensors(FLOATING["hypot"]))

# NumPy's names of two of the comparisons are shorter.
_COMPARISON_NAMES = {kind: kind.replace("lesser", "less") for kind in COMPARISONS}


def _comparison(kind: str) -> Emit:
    def emit(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
        return [compare(kind, inputs[0], inputs[1], w)]

    return emit


def _scalar_comparison(kind: str) -> Emit:
    def emit(params: ScalarParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
        return [compare(kind, inputs[0], w.scalar(params.scalar, dtype_of(node.inputs[0])), w)]

    return emit


for _kind, _name in _COMPARISON_NAMES.items():
    operator(f"_npi_{_name}", dtypes=NUMBERS, zero_dim=True)(_comparison(_kind))
    operator(f"_npi_{_name}_scalar", parameters=ScalarParameters, check=check_scalar, dtypes=NUMBERS, zero_dim=True)(
        _scalar_comparison(_kind)
    )


@dataclass(frozen=True)
class WhereScalarParameters(Parameters):
    """Parameters of _npi_where_lscalar and _npi_where_rscalar: the one of the choices that is a number."""

    scalar: float = 0.0


@dataclass(frozen=True)
class WhereScalarsParameters(Parameters):
    """Parameters of _npi_where_scalar2, both of whose choices are numbers."""

    x: float = 0.0
    y: float = 0.0


def _check_where(params: Parameters, node: NodeInfo) -> Optional[str]:
    if not node.outputs:
        return None
    found = node.outputs[0].dtype
    for value in vars(params).values():
        refusal = check_whole("scalar", value, found)
        if refusal is not None:
            return refusal
    return check_dtype("the values", node.outputs[0], NUMBERS)


@operator("_npi_where", check=_check_where, dtypes=ELEMENTS, zero_dim=True)
@operator("_npi_where_lscalar", parameters=WhereScalarParameters, check=_check_where, dtypes=ELEMENTS, zero_dim=True)
@operator("_npi_where_rscalar", parameters=WhereScalarParameters, check=_check_where, dtypes=ELEMENTS, zero_dim=True)
@operator("_npi_where_scalar2", parameters=WhereScalarsParameters, check=_check_where, dtypes=ELEMENTS, zero_dim=True)
def _where(params: Any, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype = dtype_of(node.outputs[0])
    if isinstance(params, WhereScalarsParameters):
        choices = [w.scalar(params.x, dtype), w.scalar(params.y, dtype)]
    elif isinstance(params, WhereScalarParameters):
        scalar = w.scalar(params.scalar, dtype)
        choices = [scalar, inputs[1]] if node.op == "_npi_where_lscalar" else [inputs[1], scalar]
    else:
        choices = list(inputs[1:])
    return [w.node("Where", [truth(inputs[0], dtype_of(node.inputs[0]), w), *choices])]
