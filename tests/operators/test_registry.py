"""The registry against the tests' rows, and against MXNet's own list of arguments."""

from __future__ import annotations

import ctypes
import dataclasses
import re
import typing
from collections.abc import Mapping

import pytest

from mxnet_trt_property import operators
from mxnet_trt_property.convert import node_info, variable_roles
from mxnet_trt_property.infer import read_symbol
from mxnet_trt_property.operators import registry
from mxnet_trt_property.operators.registry import Operator, ParameterError, Parameters
from tests.harness import Refusal, Row, all_rows, all_strategies, mx

ENTRIES = operators.all_operators()
STRATEGIES = all_strategies()

# MXNet's names for types, as they begin the text that describes an argument, and ours.
KINDS = {
    "boolean": bool,
    "int": int,
    "long": int,
    "float": float,
    "double": float,
    "string": str,
    "{": str,
    "Shape": tuple,
    "tuple of <float>": tuple,
}

# Operators whose argument list describes other parameters than they read.
MISDESCRIBED = {
    "_npi_concatenate": {"num_args": "int, required", "axis": "int or None, optional, default='0'"},
    "smooth_l1": {"scalar": "double, optional, default=1", "is_int": "boolean, optional, default=1"},
}


def mxnet_arguments() -> Mapping[str, Mapping[str, str]]:
    """Returns for each operator of MXNet its arguments and the texts that describe their types."""
    library = mx.base._LIB
    count, handles = ctypes.c_uint(), ctypes.POINTER(ctypes.c_void_p)()
    mx.base.check_call(library.MXSymbolListAtomicSymbolCreators(ctypes.byref(count), ctypes.byref(handles)))
    result = {}
    for i in range(count.value):
        name, text, kind, returned = (ctypes.c_char_p() for _ in range(4))
        number = ctypes.c_uint()
        names, types, texts = (ctypes.POINTER(ctypes.c_char_p)() for _ in range(3))
        pointers = [ctypes.byref(p) for p in (name, text, number, names, types, texts, kind, returned)]
        mx.base.check_call(library.MXSymbolGetAtomicSymbolInfo(ctypes.c_void_p(handles[i]), *pointers))
        assert name.value is not None
        result[name.value.decode()] = {names[j].decode(): types[j].decode() for j in range(number.value)}
    return {**result, **MISDESCRIBED}


ARGUMENTS = dict(mxnet_arguments())
# There MXNet describes the arguments of _arange; these are what it parses (tensor/init_op.h: LinspaceParam).
ARGUMENTS["_linspace"] = {
    **{name: ARGUMENTS["_arange"][name] for name in ("start", "ctx", "dtype")},
    "stop": "double, required",
    "num": "int, required",
    "endpoint": "boolean, optional, default=1",
}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_every_operator_has_rows(entry: Operator) -> None:
    """An operator without an accepted row is untested, and one with a condition needs a refused row."""
    assert any(row.operator == entry.name for row in all_rows("ACCEPTED"))
    if entry.is_conditional:
        assert any(row.operator == entry.name for row in all_rows("REFUSED"))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_every_operator_has_a_strategy(entry: Operator) -> None:
    """test_random.py compares what the strategies draw."""
    assert entry.name in STRATEGIES


def test_strategies_are_of_operators() -> None:
    """A misspelt name would be a strategy that some operator lacks."""
    assert {entry.name for entry in ENTRIES} >= set(STRATEGIES)


def test_rows_have_different_names() -> None:
    """Two rows with one name would be told apart by a number only."""
    for kind in ("ACCEPTED", "REFUSED"):
        names = [str(row) for row in all_rows(kind)]
        assert len(set(names)) == len(names)
    assert all(isinstance(row, Row) for row in all_rows("ACCEPTED"))
    assert all(isinstance(row, Refusal) for row in all_rows("REFUSED"))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_parameters_are_those_of_mxnet(entry: Operator) -> None:
    """Names, types and defaults agree; what the record leaves out must be in IGNORED."""
    record = entry.parameters
    hints = typing.get_type_hints(record)
    fields = {field.name: field for field in dataclasses.fields(record)}
    described = {k: v for k, v in ARGUMENTS[entry.name].items() if "Symbol" not in v}
    assert set(fields) <= set(described)
    assert set(described) - set(fields) <= record.IGNORED
    for name, field in fields.items():
        text = described[name]
        hint = hints[name]
        if typing.get_origin(hint) is typing.Union:
            assert "None" in text
            hint = next(t for t in typing.get_args(hint) if t is not type(None))
        kind = next(k for start, k in KINDS.items() if text.startswith(start))
        assert (typing.get_origin(hint) or hint) is kind
        default = re.search(r"default='?(.*?)'?$", text)
        if default is None:
            assert "required" in text
            assert field.default is dataclasses.MISSING
        else:
            assert field.default == registry._parse(record.__name__, name, default.group(1), hints[name])


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_ignored_names_exist(entry: Operator) -> None:
    """A name in IGNORED that MXNet does not know hides a misspelling."""
    # num_args of add_n is set by MXNet's Python front end and is in no argument list.
    extra = entry.parameters.IGNORED - Parameters.IGNORED - {"num_args"}
    assert extra <= set(ARGUMENTS[entry.name])


@pytest.mark.parametrize("row", all_rows("ACCEPTED"), ids=str)
def test_check_answers_without_shapes(row: Row) -> None:
    """A partition without shapes and dtypes gets an answer: an acceptance, or a reason that names what is unknown."""
    graph = read_symbol(row.build())
    for node in graph.operators:
        entry = operators.find(node.op)
        assert entry is not None
        info = node_info(graph, {}, variable_roles(graph, lambda variable: variable.name not in row.shapes), node)
        refusal = entry.refusal(entry.parameters.parse(node.attrs), info)
        assert refusal is None or "unknown" in refusal


def test_second_entry_is_an_error() -> None:
    """Two entries for one operator would drift apart."""
    with pytest.raises(ValueError, match=r"operator 'relu' has an entry already \(mxnet_trt_property"):
        operators.operator("relu")(lambda *arguments: [])


@dataclasses.dataclass(frozen=True)
class _Record(Parameters):
    size: tuple[int, ...]
    bounds: tuple[typing.Optional[int], ...] = ()
    flag: bool = False
    rate: typing.Optional[float] = None


def test_parse_reads_what_mxnet_writes() -> None:
    """Texts as dmlc prints them; attributes of the graph itself, such as __lr_mult__, are skipped."""
    attrs = {
        "size": "[3, 3]",
        "bounds": "(None, 2)",
        "flag": "1",
        "rate": "1e-05",
        "__shape__": "(1,)",
        "workspace": "9",
    }
    assert _Record.parse(attrs) == _Record((3, 3), (None, 2), True, 1e-5)
    assert _Record.parse({"size": "3", "rate": "None"}) == _Record((3,))


@pytest.mark.parametrize(
    ("attrs", "text"),
    [
        ({}, "a required attribute is missing"),
        ({"size": "(None,)"}, "attribute size='(None,)' does not parse as _Record.size"),
        ({"size": "(3,)", "flag": "yes"}, "attribute flag='yes' does not parse"),
        ({"size": "(3,)", "mode": "x"}, "attribute mode='x' is not one that this operator is known to have"),
    ],
)
def test_parse_refuses_what_it_does_not_know(attrs: dict[str, str], text: str) -> None:
    """An attribute that nobody reads must not change results."""
    with pytest.raises(ParameterError, match=re.escape(text)):
        _Record.parse(attrs)
