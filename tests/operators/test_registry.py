"""The registry against the tests' rows, and against MXNet's own list of arguments."""

from __future__ import annotations

import ctypes
import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping

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


def test_every_operator_has_rows() -> None:
    """An operator without an accepted row is untested, and one with a condition needs a refused row."""
    accepted, refused = ({row.operator for row in all_rows(kind)} for kind in ("ACCEPTED", "REFUSED"))
    assert {entry.name for entry in ENTRIES} <= accepted
    assert {entry.name for entry in ENTRIES if entry.is_conditional} <= refused


def test_every_operator_has_a_strategy() -> None:
    """test_random.py compares what the strategies draw; a misspelt name would be a strategy that an operator lacks."""
    assert {entry.name for entry in ENTRIES} == set(STRATEGIES)


def test_rows_have_different_names() -> None:
    """Two rows with one name would be told apart by a number only."""
    for kind in ("ACCEPTED", "REFUSED"):
        names = [str(row) for row in all_rows(kind)]
        assert len(set(names)) == len(names)
    assert all(isinstance(row, Row) for row in all_rows("ACCEPTED"))
    assert all(isinstance(row, Refusal) for row in all_rows("REFUSED"))


# The checks below are loops, and not parametrized: thousands of tests that take no time take some to be run.
def test_parameters_are_those_of_mxnet() -> None:
    """Names, types and defaults agree; what the record leaves out must be in IGNORED."""
    faults = {entry.name: list(parameter_faults(entry)) for entry in ENTRIES}
    assert not {name: found for name, found in faults.items() if found}


def parameter_faults(entry: Operator) -> Iterator[str]:
    """Yields in what the record of an operator differs from MXNet's list of its arguments."""
    record = entry.parameters
    hints = typing.get_type_hints(record)
    fields = {field.name: field for field in dataclasses.fields(record)}
    described = {k: v for k, v in ARGUMENTS[entry.name].items() if "Symbol" not in v}
    if unread := set(described) - set(fields) - record.IGNORED:
        yield f"neither read nor ignored: {sorted(unread)}"
    # num_args of add_n is set by MXNet's Python front end and is in no argument list.
    ignored = record.IGNORED - Parameters.IGNORED - {"num_args"}
    if unknown := (set(fields) - set(described)) | (ignored - set(ARGUMENTS[entry.name])):
        yield f"unknown to MXNet: {sorted(unknown)}"
    for name in fields.keys() & described.keys():
        hint, text = hints[name], described[name]
        if typing.get_origin(hint) is typing.Union:
            if "None" not in text:
                yield f"{name} is never None: {text}"
            hint = next(t for t in typing.get_args(hint) if t is not type(None))
        kind = next((k for start, k in KINDS.items() if text.startswith(start)), None)
        if (typing.get_origin(hint) or hint) is not kind:
            yield f"{name} is no {hint}: {text}"
            continue
        default = re.search(r"default='?(.*?)'?$", text)
        expected = dataclasses.MISSING
        if default is not None:
            expected = registry._parse(record.__name__, name, default.group(1), hints[name])
        elif "required" not in text:
            yield f"{name} has a default that is not known: {text}"
        if fields[name].default != expected:
            yield f"default {fields[name].default} of {name}: {text}"


def test_check_answers_without_shapes() -> None:
    """A partition without shapes and dtypes gets an answer: an acceptance, or a reason that names what is unknown."""
    answers = {str(row): list(blind_answers(row)) for row in all_rows("ACCEPTED")}
    assert all(answers.values())
    assert not {k: v for k, v in answers.items() if any(text is not None and "unknown" not in text for text in v)}


def test_check_of_refused_rows_answers_without_shapes() -> None:
    """What would be refused does not make a check raise either."""
    for row in all_rows("REFUSED"):
        assert all(text is None or text for text in blind_answers(row))


def blind_answers(row: typing.Union[Row, Refusal]) -> Iterator[typing.Optional[str]]:
    """Yields what the operators of a row say where nothing is known of their inputs and outputs."""
    graph = read_symbol(row.build())
    roles = variable_roles(graph, lambda variable: variable.name not in row.shapes)
    for node in graph.operators:
        entry = operators.find(node.op)
        if entry is not None:
            yield entry.refusal(entry.parameters.parse(node.attrs), node_info(graph, {}, roles, node))


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
