"""The ways of running one network that a benchmark compares, each as a call to be timed.

mxnet      stock MXNet, default backend, variable unset: forward(data=x), wait
blog loop  the plugin, simple_bind: forward(data=x), wait
forward    the same executor, with the data in place: forward(), wait
compile    the bound call of mxnet_trt_property.compile
limit      the bare engine on the same model: TensorRT's captured run with its copies, or ONNX Runtime by io-binding
floor      stock MXNet with a network that does nothing, on inputs of the same size: forward(data=x), wait
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np

from mxnet_trt_property import settings
from mxnet_trt_property.environment import environment
from mxnet_trt_property.errors import TensorRTPropertyError, message, mxnet_words

NAMES = ("mxnet", "blog loop", "forward", "compile", "limit", "floor")

Arrays = Mapping[str, np.ndarray[Any, Any]]


class BenchError(TensorRTPropertyError):
    """A benchmark cannot be run as asked."""


@dataclass(frozen=True)
class Case:
    """One network at one batch size and precision; `context` is "cpu" or "gpu"."""

    symbol: Any
    arg_params: Mapping[str, Any]
    aux_params: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    precision: str
    context: str


@dataclass(frozen=True)
class Variant:
    """One way of running the network.

    Attributes:
        call: Runs it once and waits for the results.
        feed: Puts new inputs in place.
        outputs: Returns the results of the last call; None where there is nothing to compare.
    """

    name: str
    call: Callable[[], Any]
    feed: Callable[[Arrays], None]
    outputs: Optional[Callable[[], list[np.ndarray[Any, Any]]]] = None


@dataclass
class Prepared:
    """The variants of a case that can be run, and why the others cannot.

    Attributes:
        engines: The engine's name by variant.
        taken: How many operators run inside TensorRT nodes, of `operators`.
        operators: How many operators the network has.
        subgraphs: How many TensorRT nodes there are.
    """

    variants: list[Variant] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    taken: int = 0
    operators: int = 0
    subgraphs: int = 0


def backend(name: Optional[str], precision: str = "fp32") -> Any:
    """Returns a context manager for one backend; an engine that fails is an error there, not a fallback to MXNet."""
    return environment(
        {
            settings.BACKEND_VARIABLE: name,
            settings.OLD_SWITCH: None,
            "MXNET_SUBGRAPH_VERBOSE": "0",
            settings.PREFIX + "PRECISION": precision,
            settings.PREFIX + "ON_ERROR": "raise",
        }
    )


def random_inputs(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Returns real-valued inputs: zeros, or integers, can be faster than what a program has."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


def reference(case: Case, inputs: Sequence[Arrays]) -> list[list[np.ndarray[Any, Any]]]:
    """Returns the outputs for each of `inputs` of MXNet on the CPU without a backend: what counts as right."""
    import mxnet as mx

    with backend("NONE"):
        executor = _bind(case, mx.cpu())
        found = []
        for arrays in inputs:
            outputs = executor.forward(is_train=False, **{k: mx.nd.array(v) for k, v in arrays.items()})
            found.append([output.asnumpy() for output in outputs])
    return found


@contextmanager
def prepare(case: Case, wanted: tuple[str, ...]) -> Iterator[Prepared]:
    """Returns the wanted variants of a case, run once each, in the order of `NAMES`; they end with the block."""
    made = Prepared()
    closing: list[Callable[[], None]] = []
    inputs = random_inputs(case.shapes, 1)
    steps: tuple[tuple[tuple[str, ...], Callable[[], list[Variant]]], ...] = (
        (("mxnet",), lambda: _mxnet(case)),
        (("blog loop", "forward"), lambda: _plugin(case, made)),
        (("compile", "limit"), lambda: _compiled(case, made, closing)),
        (("floor",), lambda: _floor(case)),
    )
    try:
        for names, make in steps:
            if not set(names) & set(wanted):
                continue
            try:
                variants = [v for v in make() if v.name in wanted]
                for variant in variants:
                    variant.feed(inputs)
                    variant.call()
                made.variants += variants
            except Exception as error:  # noqa: BLE001 - a variant that fails must not keep the others from being measured
                words = mxnet_words(error) or type(error).__name__
                made.unavailable.update({n: words for n in names if n in wanted})
        yield made
    finally:
        for close in closing:
            close()
        made.variants.clear()
        gc.collect()  # executors and engines of the last case would take memory from the next


def _context(case: Case) -> Any:
    import mxnet as mx

    return mx.gpu(0) if case.context == "gpu" else mx.cpu()


def _bind(case: Case, context: Any) -> Any:
    executor = case.symbol.simple_bind(context, grad_req="null", **case.shapes)
    executor.copy_params_from(case.arg_params, case.aux_params, allow_extra_params=True)
    return executor


def _mxnet(case: Case) -> list[Variant]:
    with backend(None):
        executor = _bind(case, _context(case))
        return [_loop("mxnet", case, executor)]


def _loop(name: str, case: Case, executor: Any, checked: bool = True) -> Variant:
    """Returns forward(data=x) and the wait for its results."""
    import mxnet as mx

    context = _context(case)
    data = {k: mx.nd.zeros(shape, context) for k, shape in case.shapes.items()}

    def call() -> None:
        for output in executor.forward(is_train=False, **data):
            output.wait_to_read()

    return Variant(name, call, lambda arrays: _write(data, arrays), (lambda: _read(executor)) if checked else None)


def _write(targets: Mapping[str, Any], arrays: Arrays) -> None:
    for name, target in targets.items():
        target[:] = arrays[name]
        if hasattr(target, "wait_to_read"):
            target.wait_to_read()


def _read(executor: Any) -> list[np.ndarray[Any, Any]]:
    return [output.asnumpy() for output in executor.outputs]


def _plugin(case: Case, made: Prepared) -> list[Variant]:
    from mxnet_trt_property import session_table

    with backend(settings.BACKEND, case.precision):
        executor = _bind(case, _context(case))
        attachment = getattr(executor, "tensorrt", None)
        if attachment is None:
            raise BenchError(
                message(
                    "No node of the network was taken",
                    next_step="set logging to DEBUG under mxnet_trt_property: it tells why",
                )
            )
        decisions = attachment.made.decisions
        made.taken, made.operators = len(decisions.taken), len(decisions.decisions)
        made.subgraphs = decisions.subgraph_count
        loop = _loop("blog loop", case, executor)
        loop.call()  # builds the engine while the settings hold
        engine = "+".join(sorted({r.engine for r in session_table.reports()[-made.subgraphs :]}))
    made.engines.update({"blog loop": engine, "forward": engine})

    def call() -> None:
        for output in executor.forward(is_train=False):
            output.wait_to_read()

    places = {name: executor.arg_dict[name] for name in case.shapes}
    return [loop, Variant("forward", call, lambda arrays: _write(places, arrays), lambda: _read(executor))]


def _compiled(case: Case, made: Prepared, closing: list[Callable[[], None]]) -> list[Variant]:
    from mxnet_trt_property import compiled

    with backend(None, case.precision):
        model = compiled.compile(case.symbol, case.arg_params, case.aux_params, case.shapes)
    closing.append(model.close)
    made.engines["compile"] = made.engines["limit"] = model.engine
    variants = [_bound(case, model, "compile")[0]]
    try:
        variants.append(_limit(case, model))
    except Exception as error:  # noqa: BLE001 - whatever is missing there, compile itself can be measured
        made.unavailable["limit"] = str(error)
    return variants


def _bound(case: Case, model: Any, name: str) -> tuple[Variant, Any]:
    """Returns the bound call on arrays of its own."""
    import mxnet as mx

    shapes = {t.name: t.shape for t in model.inputs}
    if case.context == "gpu":
        arrays = {k: mx.nd.zeros(shape, mx.gpu(0)) for k, shape in shapes.items()}
    else:
        arrays = {k: np.zeros(shape, "float32") for k, shape in shapes.items()}
    bound = model.bind(**arrays)
    outputs = bound.outputs if isinstance(bound.outputs, list) else [bound.outputs]

    def read() -> list[np.ndarray[Any, Any]]:
        return [o.copy() if isinstance(o, np.ndarray) else o.asnumpy() for o in outputs]

    return Variant(name, bound, lambda inputs: _write(arrays, inputs), read), bound


def _limit(case: Case, model: Any) -> Variant:
    if model.engine == "onnxruntime":
        return _bare_onnxruntime(model)
    variant, bound = _bound(case, model, "limit")
    variant.call()
    bare = bound.bare()
    if bare is None:
        raise BenchError(message(f"Engine {model.engine} offers no bare run to compare with"))
    return Variant(variant.name, bare, variant.feed, variant.outputs)


def _bare_onnxruntime(model: Any) -> Variant:
    """Returns ONNX Runtime as one would use it without this package, on the same model and threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():
        options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(model.onnx, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    arrays = {t.name: np.zeros(t.shape, t.dtype) for t in model.inputs}
    outputs = [np.zeros(t.shape, t.dtype) for t in model.outputs]
    for value, array in zip(session.get_inputs(), arrays.values()):
        binding.bind_input(value.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    for value, array in zip(session.get_outputs(), outputs):
        binding.bind_output(value.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    return Variant(
        "limit",
        lambda: session.run_with_iobinding(binding),
        lambda inputs: _write(arrays, inputs),
        lambda: [array.copy() for array in outputs],
    )


def _floor(case: Case) -> list[Variant]:
    import mxnet as mx

    corners = [
        mx.sym.identity(mx.sym.slice(mx.sym.Variable(name), begin=(0,) * len(shape), end=(1,) * len(shape)))
        for name, shape in case.shapes.items()
    ]
    with backend(None):
        executor = mx.sym.Group(corners).simple_bind(_context(case), grad_req="null", **case.shapes)
        return [_loop("floor", case, executor, checked=False)]
