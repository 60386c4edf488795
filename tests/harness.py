"""Runs a symbol in stock MXNet and through the package, and compares.

`stock_outputs` and `plugin_outputs` are the two doors; everything else is written against them. The
reference is always a run with MXNET_SUBGRAPH_BACKEND=NONE: MXNet's default CPU backend fuses and caches.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import onnx

# The package comes first: its import hook gives MXNet the names that NumPy took away.
from mxnet_trt_property import operators  # isort: skip
import mxnet as mx

from mxnet_trt_property.convert import ConvertedModel, convert, node_info, variable_roles
from mxnet_trt_property.graph import Graph
from mxnet_trt_property.infer import infer_tensors, read_symbol
from tests.symbols import backend

Arrays = Mapping[str, np.ndarray]
Fill = Callable[[np.random.RandomState, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Row:
    """One accepted case of an operator's test.

    Attributes:
        operator: The canonical operator name that the case is for.
        name: What the case shows; the test's id together with the operator.
        build: Returns the symbol.
        shapes: Shapes of the inputs that are data; the shapes of all else are inferred.
        rtol: Relative tolerance against MXNet.
        atol: Absolute tolerance against MXNet.
        dtypes: Dtypes of inputs; float32 where not given.
        fills: Values of inputs, where standard normal ones will not do.
        engine: Whether a TensorRT engine can be built for it; the text is why not.
    """

    operator: str
    name: str
    build: Callable[[], Any]
    shapes: Mapping[str, tuple[int, ...]]
    rtol: float
    atol: float
    dtypes: Mapping[str, str] = field(default_factory=dict)
    fills: Mapping[str, Fill] = field(default_factory=dict)
    engine: str = ""

    def __str__(self) -> str:
        """Returns the test's id."""
        return f"{self.operator}-{self.name}"


@dataclass(frozen=True)
class Refusal:
    """One refused case: `reason` must be part of what `check` says. Without `shapes` all are unknown."""

    operator: str
    name: str
    build: Callable[[], Any]
    shapes: Mapping[str, tuple[int, ...]]
    reason: str
    dtypes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Returns the test's id."""
        return f"{self.operator}-{self.name}"


@dataclass(frozen=True)
class TakenReport:
    """What became of each operator node: the names of the taken ones, and the refused ones with the reason."""

    taken: tuple[str, ...]
    refused: Mapping[str, str]


def semantics(symbol: Any) -> AbstractContextManager[Any]:
    """Returns MXNet's switch to NumPy's shapes, where 0 and () do not mean unknown: on for a symbol of mx.np."""
    found: AbstractContextManager[Any] = mx.util.np_shape(isinstance(symbol, mx.sym.np._Symbol))
    return found


def all_arrays(
    symbol: Any,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Optional[Mapping[str, str]] = None,
    fills: Optional[Mapping[str, Fill]] = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Returns an array for every argument and auxiliary state; variances are positive."""
    rng = np.random.RandomState(seed)
    arguments = set(symbol.list_arguments())
    with semantics(symbol):
        arg_shapes, _, aux_shapes = symbol.infer_shape(**{k: v for k, v in shapes.items() if k in arguments})
    if arg_shapes is None:
        raise mx.MXNetError(f"The shapes of all inputs do not follow from {dict(shapes)}")
    # In MXNet's order of inference a type that is not given is not float32 but unknown.
    known = {name: np.dtype((dtypes or {}).get(name, "float32")) for name in arguments & set(shapes)}
    arg_types, _, aux_types = symbol.infer_type(**known)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    arrays = {}
    for name, shape, dtype in zip(names, arg_shapes + aux_shapes, arg_types + aux_types):
        if fills and name in fills:
            value = fills[name](rng, shape)
        else:
            value = rng.standard_normal(shape)
            value = np.abs(value) + 0.5 if name.endswith(("var", "gamma")) else value
        arrays[name] = np.asarray(value).astype(dtype)
    return arrays


def stock_outputs(symbol: Any, arrays: Arrays) -> list[np.ndarray]:
    """Returns what MXNet computes with no subgraph backend."""
    with backend("NONE"), semantics(symbol):
        return _forward(_bind(symbol, arrays))


def plugin_outputs(
    symbol: Any, arrays: Arrays, engine: str = "onnxruntime", forwards: int = 1
) -> tuple[list[np.ndarray], TakenReport]:
    """Returns what an unchanged program gets with MXNET_SUBGRAPH_BACKEND=TensorRT, and what became of each node.

    The outputs are those of the last of `forwards` runs, which must not differ from the first.
    """
    variables = {"ENGINE": engine, "MIN_SUBGRAPH_SIZE": "1", "ON_ERROR": "raise"}
    with backend("TensorRT", **{f"MXNET_TENSORRT_{k}": v for k, v in variables.items()}), semantics(symbol):
        executor = _bind(symbol, arrays)
        outputs = first = _forward(executor)
        for _ in range(forwards - 1):
            outputs = _forward(executor)
        for before, after in zip(first, outputs):
            np.testing.assert_array_equal(after, before, "the first run and the last one differ")
    left = {n.name: n.op for n in read_symbol(executor.get_optimized_symbol()).operators if n.op != "_TensorRT"}
    taken = tuple(node.name for node in read_symbol(symbol).operators if node.name not in left)
    return outputs, TakenReport(taken, left)


def _bind(symbol: Any, arrays: Arrays) -> Any:
    executor = symbol.simple_bind(
        mx.cpu(),
        grad_req="null",
        type_dict={name: value.dtype for name, value in arrays.items()},
        **{name: value.shape for name, value in arrays.items() if name in symbol.list_arguments()},
    )
    for group in (executor.arg_dict, executor.aux_dict):
        for name, target in group.items():
            target[:] = arrays[name]
    return executor


def _forward(executor: Any) -> list[np.ndarray]:
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def converted_model(
    symbol: Any, arrays: Arrays, data_names: Mapping[str, Any]
) -> tuple[Optional[ConvertedModel], TakenReport]:
    """Converts a whole symbol; every variable that is not in `data_names` may be a weight."""
    shapes = {name: value.shape for name, value in arrays.items()}
    dtypes = {name: value.dtype for name, value in arrays.items()}
    with semantics(symbol):
        graph, tensors = read_symbol(symbol), infer_tensors(symbol, shapes, dtypes)
    roles = variable_roles(graph, lambda node: node.name not in data_names)
    report = take(graph, tensors, roles)
    if report.refused:
        return None, report
    return convert(graph, tensors, roles, "the tested symbol"), report


def take(graph: Graph, tensors: Any, roles: Any) -> TakenReport:
    """Asks the entry of every operator node."""
    taken, refused = [], {}
    for node in graph.operators:
        entry = operators.find(node.op)
        if entry is None:
            refused[node.name] = f"no entry for {node.op}"
            continue
        refusal = entry.refusal(entry.parameters.parse(node.attrs), node_info(graph, tensors, roles, node))
        if refusal is None:
            taken.append(node.name)
        else:
            refused[node.name] = refusal
    return TakenReport(tuple(taken), refused)


def run_onnx(converted: ConvertedModel, graph: Graph, arrays: Arrays) -> list[np.ndarray]:
    """Runs a converted model in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    model = converted.serialize({w.node: arrays[graph.nodes[w.node].name] for w in converted.weights})
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {port.name: arrays[graph.nodes[port.node].name] for port in converted.inputs}
    outputs: list[np.ndarray] = session.run([f"output{i}" for i in range(converted.outputs)], feed)
    return outputs


def run_both(symbol: Any, arrays: Arrays, *, rtol: float, atol: float) -> None:
    """Asserts that every node is taken and that both doors give the same shapes, dtypes and values."""
    outputs, report = plugin_outputs(symbol, arrays)
    assert_taken(report)
    compare(outputs, stock_outputs(symbol, arrays), rtol=rtol, atol=atol)


def compare(outputs: list[np.ndarray], expected: list[np.ndarray], *, rtol: float, atol: float) -> None:
    """Asserts equal shapes and dtypes, and values within the tolerances."""
    assert len(outputs) == len(expected)
    for found, wanted in zip(outputs, expected):
        assert found.shape == wanted.shape
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)


def assert_taken(report: TakenReport) -> None:
    """Asserts that no node was left to MXNet: a comparison of MXNet with itself proves nothing."""
    assert not report.refused, report.refused
    assert report.taken


def assert_row(row: Row) -> None:
    """Asserts an accepted row."""
    symbol = row.build()
    assert row.operator in {node.op for node in read_symbol(symbol).operators}
    arrays = all_arrays(symbol, row.shapes, row.dtypes, row.fills)
    run_both(symbol, arrays, rtol=row.rtol, atol=row.atol)
    # ONNX Runtime forgives what the standard does not, such as an output declared with a wrong shape.
    onnx.checker.check_model(row_model(row), full_check=True)


def assert_refused(row: Refusal) -> None:
    """Asserts that the operator of a row is refused for the stated reason."""
    reasons = refusals(row)
    assert any(row.reason in text for text in reasons), reasons


def refusals(row: Refusal) -> list[str]:
    """Returns why the nodes of a row's operator are refused."""
    symbol = row.build()
    graph = read_symbol(symbol)
    dtypes = {name: np.dtype(row.dtypes.get(name, "float32")) for name in DATA_NAMES}
    with semantics(symbol):
        tensors = infer_tensors(symbol, row.shapes, dtypes)
    report = take(graph, tensors, variable_roles(graph, lambda node: node.name not in DATA_NAMES))
    return [report.refused[n.name] for n in graph.operators if n.op == row.operator and n.name in report.refused]


DATA_NAMES = ("x", "y", "z", "label")
"""The variables that rows use for data; all others may be weights."""


def all_rows(kind: str) -> list[Any]:
    """Returns the rows of every family's test file; `kind` is "ACCEPTED" or "REFUSED"."""
    found: list[Any] = []
    for entry in sorted(Path(__file__).with_name("operators").glob("test_*.py")):
        # The files that collect the rows have none, and are being imported while they do.
        if "\n" + kind + " = [" in entry.read_text(encoding="utf-8"):
            found += getattr(importlib.import_module(f"tests.operators.{entry.stem}"), kind)
    return found


def all_strategies() -> dict[str, Any]:
    """Returns the strategy of rows of each operator, out of `STRATEGIES` of every family's test file."""
    found: dict[str, Any] = {}
    for entry in sorted(Path(__file__).with_name("operators").glob("test_*.py")):
        if re.search(r"^STRATEGIES: ", entry.read_text(encoding="utf-8"), re.MULTILINE):
            strategies = importlib.import_module(f"tests.operators.{entry.stem}").STRATEGIES
            twice = found.keys() & strategies.keys()
            assert not twice, f"{entry.name} has a second strategy of {sorted(twice)}"
            found.update(strategies)
    return found


def build_engine(model: bytes) -> Any:
    """Parses and builds a model with TensorRT for RTX, which needs no GPU for that, and returns the engine's bytes."""
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model)
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    if hasattr(config, "num_compute_capabilities"):
        # Without a GPU in the machine the engine is built for any that may come.
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM120, 0)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    return engine


def row_model(row: Row) -> bytes:
    """Returns the ONNX bytes of an accepted row."""
    symbol = row.build()
    arrays = all_arrays(symbol, row.shapes, row.dtypes, row.fills)
    converted, report = converted_model(symbol, arrays, row.shapes)
    assert_taken(report)
    assert converted is not None
    graph = read_symbol(symbol)
    return converted.serialize({w.node: arrays[graph.nodes[w.node].name] for w in converted.weights})
