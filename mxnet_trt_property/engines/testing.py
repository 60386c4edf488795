"""Checks an engine against what `registry.Engine`, `Program` and `Runner` promise: one function for each promise.

For the tests of a package that brings an engine, with pytest or without:

    @pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(MyEngine())

A check returns if the promise is kept, and raises ConformanceError if not. The engine must be usable for `device`,
which is host memory unless given: arrays on a GPU are not made here. What is compared was computed with NumPy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np

from mxnet_trt_property.engines.registry import DEFAULT_TOLERANCE, Buffer, Device, Engine, Options, Program, Runner
from mxnet_trt_property.errors import EngineError, message
from mxnet_trt_property.onnx_writer import OnnxWriter, Value

Array = np.ndarray[Any, Any]
LABEL = "the checked subgraph"
HOST = Device("cpu", 0)

_THREADS = 4
_RUNS = 25
_FLOAT32 = np.dtype(np.float32)


class ConformanceError(AssertionError):
    """An engine does not keep a promise of the protocol."""


class Model(NamedTuple):
    """A serialized ONNX model with inputs that fit it, and the outputs that are right."""

    onnx: bytes
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


def names_itself(engine: Engine, device: Device = HOST) -> None:
    """Checks name, version, and that the engine can be used; the same each time it is asked."""
    _require(isinstance(engine.name, str) and engine.name == engine.name.strip() != "", "name", engine.name, "a text")
    for _ in range(2):
        reason = engine.unusable(device)
        _require(reason is None, "unusable()", str(reason), "None, since only a usable engine can be checked")
        _require(bool(engine.version()), "version()", repr(engine.version()), "the version of a library that is there")
    on = getattr(engine, "runs_on", "gpu")
    _require(on in ("cpu", "gpu"), "runs_on", repr(on), "'cpu' or 'gpu'")


def computes(engine: Engine, device: Device = HOST) -> None:
    """Checks a network of convolution, ReLU, dense layer and softmax within the engine's tolerance."""
    _check(engine, _network(), device)


def keeps_float32(engine: Engine, device: Device = HOST) -> None:
    """Checks a sum of products that is off in bfloat16, and in float16, by more than the engine's tolerance."""
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 128), (128, 64)))
    _check(engine, _model(lambda g, n: [g.node("MatMul", [n[0], g.constant(w)])], [x], [x @ w]), device)


def keeps_order(engine: Engine, device: Device = HOST) -> None:
    """Checks that inputs and outputs come in the model's order, with an input in between that no node reads."""
    a, unused, b = _floats([1, 2, 3, 4]), np.zeros(3, np.float32), _floats([2, 4, 8, 16])
    made = _model(
        lambda g, n: [g.node("Sub", [n[0], n[2]]), g.node("Div", [n[0], n[2]])], [a, unused, b], [a - b, a / b]
    )
    _check(engine, made, device)


def copies_or_refuses(engine: Engine, device: Device = HOST) -> None:
    """Checks outputs that are copies of an input, of which libraries may make one tensor, or that they are refused."""
    x = _floats([-1, 2, -3, 4])
    made = _model(
        lambda g, n: [g.node("Identity", n), g.node("Relu", [g.node("Identity", n)]), g.node("Identity", n)],
        [x],
        [x, np.maximum(x, 0), x],
    )
    _exact_or_refused(engine, made, device, "copies of an input")


def reads_and_writes_in_place(engine: Engine, device: Device = HOST) -> None:
    """Checks that each run reads the arrays as they are then, whether they are the same ones or others."""
    runner = _runner(engine, _relu(np.zeros((2, 3), np.float32)), device)
    kept = []
    for step in range(_RUNS):
        x, y = np.full((2, 3), step - 4, np.float32), np.full((2, 3), np.nan, np.float32)
        kept.append((x, y))  # so that no address comes twice
        for _ in range(2):
            x += 0.5
            _run(runner, [x], [y])
            _same(y, np.maximum(x, 0), 0, "a repeated run")


def takes_other_shapes_of_one_size(engine: Engine, device: Device = HOST) -> None:
    """Checks arrays with as many elements as the model's tensors, in another shape."""
    x, y = _floats([-1, 2, -3, 4, -5, 6]), np.zeros((3, 2), np.float32)
    _run(_runner(engine, _relu(np.zeros((2, 3), np.float32)), device), [x], [y])
    _same(y.reshape(-1), np.maximum(x, 0), 0, "arrays of another shape")


def refuses_arrays_that_do_not_fit(engine: Engine, device: Device = HOST) -> None:
    """Checks that a wrong size, a wrong dtype and a wrong number of arrays are errors, and harm nothing."""
    runner = _runner(engine, _relu(np.zeros((2, 3), np.float32)), device)
    good, large, double = np.ones((2, 3), np.float32), np.ones(7, np.float32), np.ones((2, 3))
    cases: Sequence[tuple[list[Array], list[Array]]] = (
        ([large], [good]),
        ([good], [large]),
        ([double], [good]),
        ([good], [double]),
        ([good, good], [good]),
        ([good], []),
    )
    for inputs, outputs in cases:
        _refuses(lambda i=inputs, o=outputs: _run(runner, i, o), "run() with arrays that do not fit")  # type: ignore[misc]
    x, y = _floats([[-1, 2, -3], [4, -5, 6]]), np.zeros((2, 3), np.float32)
    _run(runner, [x], [y])
    _same(y, np.maximum(x, 0), 0, "a run after one that was refused")


def computes_exactly_or_refuses(engine: Engine, device: Device = HOST) -> None:
    """Checks each dtype of MXNet: y = x + x is exact, or an error says that it cannot be done; never a wrong number."""
    cases: Mapping[str, Sequence[float]] = {
        "float16": (0.5, -2048, 1024),
        "float64": (1 + 2.0**-40, -1e300, 0.1),
        "int8": (-100, 100, 7),
        "uint8": (200, 100, 7),
        "int32": (2**24 + 1, -(2**30), 7),
        "int64": (2**40 + 1, -(2**62), 7),
    }
    for name, values in cases.items():
        x = np.array(values, name)
        made = _model(lambda g, n: [g.node("Add", [n[0], n[0]])], [x], [x + x])
        _exact_or_refused(engine, made, device, f"x + x in {name}")
        _exact_or_refused(engine, _copy(x), device, f"a copy of {name}")
    _exact_or_refused(engine, _copy(np.array([True, False, True])), device, "a copy of bool")


def takes_any_shape(engine: Engine, device: Device = HOST) -> None:
    """Checks a tensor without axes, and one without elements and without memory, which a build may also refuse."""
    _check(engine, _relu(np.array(-2, np.float32)), device)
    _check(engine, _relu(_floats([3])), device)
    made = _relu(np.zeros((0, 3), np.float32))
    try:
        runner = engine.build(made.onnx, Options(), device, LABEL).runner(device)
    except EngineError:
        return
    empty = Buffer(0, (0, 3), _FLOAT32)
    runner.run([empty], [empty], 0)


def runs_on_several_threads(engine: Engine, device: Device = HOST) -> None:
    """Checks runners of one program that are used at the same time, each on a thread of its own."""
    made = _network()
    program = engine.build(made.onnx, Options(), device, LABEL)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            runner = program.runner(device)
            x = np.random.default_rng(seed).standard_normal(made.inputs[0].shape).astype(np.float32)
            first = [np.zeros_like(made.outputs[0])]
            _run(runner, [x], first)
            for _ in range(_RUNS):
                found = [np.zeros_like(first[0])]
                _run(runner, [x], found)
                _same(found[0], first[0], 1e-6, "a run while other threads run")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def keeps_programs_apart(engine: Engine, device: Device = HOST) -> None:
    """Checks two programs of one structure with other weights."""
    first, second = (_network(seed) for seed in (0, 1))
    runners = [_runner(engine, made, device) for made in (first, second)]
    for made, runner in ((first, runners[0]), (second, runners[1]), (first, runners[0])):
        _expect(engine, runner, made)


def closes(engine: Engine, device: Device = HOST) -> None:
    """Checks that close() ends what it closes, may be repeated, and leaves the runners of a closed program alone."""
    made = _relu(_floats([[-1, 2, 3]]))
    program = engine.build(made.onnx, Options(), device, LABEL)
    _require(
        isinstance(program.size_bytes, int) and program.size_bytes >= 0, "size_bytes", repr(program.size_bytes), ">= 0"
    )
    first, second = program.runner(device), program.runner(device)
    things: tuple[Any, ...] = (first, first, program, program)
    for thing in things:
        thing.close()
    _expect(engine, second, made)
    _refuses(lambda: _run(first, made.inputs, [np.zeros_like(made.outputs[0])]), "run() after close()")
    _refuses(lambda: program.runner(device), "runner() after close()")


def refuses_what_it_cannot_build(engine: Engine, device: Device = HOST) -> None:
    """Checks that an unknown operator and an unknown precision are errors that name the subgraph."""
    bad = _unknown_operator()
    text = _refuses(lambda: engine.build(bad, Options(), device, LABEL), "build() of an unknown operator")
    _require(LABEL in text, "the error of build()", text, f"a text with the label, '{LABEL}'")
    good = _relu(np.zeros(3, np.float32)).onnx
    _refuses(lambda: engine.build(good, Options(precision="fp7"), device, LABEL), "build() in precision 'fp7'")


def tells_what_it_refuses(engine: Engine, device: Device = HOST) -> None:
    """Checks `refused_nodes`, where there is one: nothing of a good model, and by name a node that cannot be built."""
    ask: Optional[Callable[[bytes], Mapping[str, str]]] = getattr(engine, "refused_nodes", None)
    if ask is None:
        return
    found = ask(_network().onnx)
    _require(not found, "refused_nodes() of a model that can be built", str(dict(found)), "no node")
    found = ask(_unknown_operator())
    names = list(found)
    _require(names == ["bad/NoSuchOperator"], "refused_nodes()", str(names), "the node of an unknown operator")
    _require(all(found.values()), "refused_nodes()", str(dict(found)), "a reason for each")


CHECKS: tuple[Callable[..., None], ...] = (
    names_itself,
    computes,
    keeps_float32,
    keeps_order,
    copies_or_refuses,
    reads_and_writes_in_place,
    takes_other_shapes_of_one_size,
    refuses_arrays_that_do_not_fit,
    computes_exactly_or_refuses,
    takes_any_shape,
    runs_on_several_threads,
    keeps_programs_apart,
    closes,
    refuses_what_it_cannot_build,
    tells_what_it_refuses,
)
"""All checks, each to be called with an engine and, if the arrays do not lie where it takes them, a device."""


# ---- models ----


def _model(
    write: Callable[[OnnxWriter, list[str]], list[str]], inputs: Sequence[Array], outputs: Sequence[Array]
) -> Model:
    """Returns the model of what `write` makes: it gets the writer and the inputs' names; returns the outputs'."""
    writer = OnnxWriter()
    sources = [Value(writer.reserve(f"input{i}"), x.shape, x.dtype) for i, x in enumerate(inputs)]
    targets = [Value(writer.reserve(f"output{i}"), y.shape, y.dtype) for i, y in enumerate(outputs)]
    with writer.scope("checked", "checked"):
        for name, value in zip(write(writer, [v.name for v in sources]), targets):
            writer.rename(name, value.name)
    data = writer.model(sources, targets, ()).serialize({}, LABEL)
    return Model(data, tuple(inputs), tuple(outputs))


def _floats(values: Any) -> Array:
    return np.array(values, np.float32)


def _relu(x: Array) -> Model:
    return _model(lambda g, n: [g.node("Relu", n)], [x], [np.asarray(np.maximum(x, 0), x.dtype)])


def _copy(x: Array) -> Model:
    return _model(lambda g, n: [g.node("Identity", n)], [x], [x])


def _unknown_operator() -> bytes:
    x = np.zeros(3, np.float32)

    def write(graph: OnnxWriter, names: list[str]) -> list[str]:
        with graph.scope("bad", "bad"):
            return [graph.node("NoSuchOperator", [graph.node("Relu", names)])]

    return _model(write, [x], [x]).onnx


def _network(seed: int = 0) -> Model:
    """Returns convolution, ReLU, a dense layer and softmax on (2, 3, 8, 8)."""
    rng = np.random.default_rng(seed)
    x, kernel, bias, dense = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 8, 8), (4, 3, 3, 3), (4,), (4 * 36, 5))
    )
    view: Any = np.lib.stride_tricks.sliding_window_view  # whose stubs know one axis only
    windows = view(x, (3, 3), (2, 3))
    hidden = np.maximum(np.einsum("nchwij,kcij->nkhw", windows, kernel) + bias[:, None, None], 0)
    scores = hidden.reshape(2, -1) @ (dense * np.float32(0.05))
    exponentials = np.exp(scores - scores.max(1, keepdims=True))

    def write(graph: OnnxWriter, names: list[str]) -> list[str]:
        found = graph.node("Relu", [graph.node("Conv", [names[0], graph.constant(kernel), graph.constant(bias)])])
        found = graph.node("MatMul", [graph.reshape(found, (2, -1)), graph.constant(dense * np.float32(0.05))])
        return [graph.node("Softmax", [found], axis=1)]

    return _model(write, [x], [exponentials / exponentials.sum(1, keepdims=True)])


# ---- running and comparing ----


def _runner(engine: Engine, made: Model, device: Device) -> Runner:
    program: Program = engine.build(made.onnx, Options(), device, LABEL)
    return program.runner(device)


def _buffer(array: Array) -> Buffer:
    return Buffer(int(array.ctypes.data), tuple(array.shape), array.dtype)


def _run(runner: Runner, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    runner.run([_buffer(x) for x in inputs], [_buffer(y) for y in outputs], 0)


def _check(engine: Engine, made: Model, device: Device) -> None:
    _expect(engine, _runner(engine, made, device), made)


def _expect(engine: Engine, runner: Runner, made: Model) -> None:
    """Runs twice, into arrays that hold something else before, and compares."""
    for _ in range(2):
        found = [np.full_like(y, 77) for y in made.outputs]
        _run(runner, made.inputs, found)
        for y, expected in zip(found, made.outputs):
            _same(y, expected, float(getattr(engine, "tolerance", DEFAULT_TOLERANCE)), "an output")


def _exact_or_refused(engine: Engine, made: Model, device: Device, what: str) -> None:
    found = [np.zeros_like(y) for y in made.outputs]
    try:
        _run(_runner(engine, made, device), made.inputs, found)
    except EngineError:
        return
    for y, expected in zip(found, made.outputs):
        _require(np.array_equal(y, expected), what, str(y.tolist()), f"{expected.tolist()}, or a refusal")


def _same(found: Array, expected: Array, tolerance: float, what: str) -> None:
    error = float(np.linalg.norm((found - expected).ravel()))
    limit = tolerance * float(np.linalg.norm(expected.ravel()))
    _require(error <= limit, what, f"off by {error:.2e} in the 2-norm", f"at most {limit:.2e}")  # false for NaN, too


def _refuses(call: Callable[[], Any], what: str) -> str:
    """Returns the text of the EngineError that `call` raises."""
    try:
        call()
    except EngineError as error:
        return str(error)
    except Exception as error:
        text = message(what, found=f"{type(error).__name__}: {error}", required="EngineError")
        raise ConformanceError(text) from error
    raise ConformanceError(message(what, found="no error", required="EngineError"))


def _require(kept: bool, what: str, found: str, required: str) -> None:
    if not kept:
        raise ConformanceError(message(what, found=found, required=required))
