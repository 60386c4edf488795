"""The engines: their names, the order in which they are tried, and why one was not chosen."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any, NamedTuple, Optional, TypeVar

from mxnet_trt_property import forks
from mxnet_trt_property.engines.protocol import (
    Buffer,
    Device,
    Engine,
    FlexibleProgram,
    Options,
    Profile,
    Program,
    RefitError,
    RefittableProgram,
    ReplayableRunner,
    Runner,
    Shapes,
)
from mxnet_trt_property.errors import EngineError, brief, message
from mxnet_trt_property.logs import warn_once

# What an engine offers is in protocol.py, and found here: engines of other packages import it from this module.
__all__ = [
    "DEFAULT_TOLERANCE",
    "ENTRY_POINT_GROUP",
    "IMPLEMENTED_PRECISIONS",
    "Buffer",
    "Choice",
    "Device",
    "Engine",
    "FlexibleProgram",
    "Options",
    "Profile",
    "Program",
    "RefitError",
    "RefittableProgram",
    "ReplayableRunner",
    "Runner",
    "Shapes",
    "changed",
    "check_buffer",
    "check_count",
    "check_precision",
    "choose",
    "get",
    "has_bfloat16",
    "names",
    "no_int8",
    "register",
    "replaced",
    "runs_on_cpu",
    "skip_exit_handlers",
    "tolerance",
    "with_shapes",
]

_log = logging.getLogger("mxnet_trt_property")

ENTRY_POINT_GROUP = "mxnet_trt_property.engines"
IMPLEMENTED_PRECISIONS = ("fp32", "fp16", "bf16", "int8")


class Choice(NamedTuple):
    """The engines to try for a subgraph, best first, and why each of the others was left out."""

    engines: tuple[Engine, ...]
    reasons: Mapping[str, str]

    def why_not(self, name: Optional[str] = None) -> str:
        """Returns the reasons in short, of one engine or of all that were left out, to stand in a message."""
        return "; ".join(f"{n}: {brief(reason)}" for n, reason in self.reasons.items() if name in (None, n))


DEFAULT_TOLERANCE = 1e-5

_FACTORIES: dict[str, Callable[[], Engine]] = {}
_LOADED: dict[str, Engine] = {}
_lock = threading.RLock()  # an engine's constructor may ask the registry


def register(name: str, factory: Callable[[], Engine]) -> None:
    """Adds an engine after those registered before it.

    Raises:
        ValueError: The name is taken.
    """
    if name in _FACTORIES:
        raise ValueError(f"an engine named '{name}' is registered already")
    _FACTORIES[name] = factory


def _tensorrt() -> Engine:
    from mxnet_trt_property.engines.trt import TensorRTEngine

    return TensorRTEngine("tensorrt", "tensorrt")


def _tensorrt_rtx() -> Engine:
    from mxnet_trt_property.engines.trt import TensorRTEngine

    return TensorRTEngine("tensorrt_rtx", "tensorrt_rtx")


def _onnxruntime() -> Engine:
    from mxnet_trt_property.engines.ort import OnnxRuntimeEngine

    return OnnxRuntimeEngine()


register("tensorrt", _tensorrt)
register("tensorrt_rtx", _tensorrt_rtx)
register("onnxruntime", _onnxruntime)
_third_party_loaded = False


@forks.in_child
def _leave_behind() -> object:
    global _lock
    _lock = threading.RLock()  # a thread of the parent may have held it
    left = []
    for engine in _LOADED.values():
        leave = getattr(engine, "leave_behind", None)
        if leave is None:
            continue
        try:
            left.append(leave())
        except Exception as error:  # the others must be left behind all the same
            step = "start workers with the 'spawn' method, or have the engine's author mend its `leave_behind`"
            what = f"Engine {engine.name} failed in the child of a fork"
            warn_once(what, found=str(error), next_step=step, error=error)
            left.append(engine)
    return left


def _entry_points() -> Sequence[metadata.EntryPoint]:
    points: Any = metadata.entry_points()
    if hasattr(points, "select"):
        return tuple(points.select(group=ENTRY_POINT_GROUP))
    return tuple(points.get(ENTRY_POINT_GROUP, ()))  # Python 3.9 has only the dictionary interface


def names() -> tuple[str, ...]:
    """Returns the names of all engines in the order of preference, third-party ones last."""
    global _third_party_loaded
    with _lock:
        if not _third_party_loaded:
            # A package that is found twice, as one that is installed in two folders of the path, is one package.
            for point in dict.fromkeys(_entry_points()):
                if point.name in _FACTORIES or point.name == "auto":
                    warn_once(
                        f"The entry point {point.name} ({ENTRY_POINT_GROUP}) is ignored: an engine has that name",
                        found=point.value,
                        next_step="uninstall one of the packages that offer it, or have its author rename it",
                    )
                else:
                    # Loaded at first use: a broken third-party package must not stop the other engines.
                    register(point.name, lambda point=point: point.load()())  # type: ignore[misc]
            _third_party_loaded = True
        return tuple(_FACTORIES)


def get(name: str) -> Engine:
    """Returns the engine called `name`.

    Raises:
        EngineError: No engine has that name, or the one that it stands for calls itself otherwise.
    """
    known = names()
    if name not in known:
        raise EngineError(_unknown(name))
    with _lock:
        if name not in _LOADED:
            engine = _FACTORIES[name]()
            if engine.name != name:
                raise EngineError(
                    message(
                        f"The entry point '{name}' of {ENTRY_POINT_GROUP} gives an engine of another name",
                        found=engine.name,
                        required=name,
                        next_step="give the engine's attribute `name` and the entry point one name",
                    )
                )
            _LOADED[name] = engine
        return _LOADED[name]


def _unknown(name: str) -> str:
    return message(f"There is no engine '{name}'", required="one of " + ", ".join(names()))


def tolerance(name: str) -> float:
    """Returns the largest relative error that is right for the engine in fp32; see `Engine`."""
    return float(getattr(get(name), "tolerance", DEFAULT_TOLERANCE))


def runs_on_cpu(name: str) -> bool:
    """Whether the engine computes on the CPU; one that cannot be loaded counts as one for GPUs, as others do."""
    try:
        return getattr(get(name), "runs_on", "gpu") == "cpu"
    except Exception:  # why it cannot be loaded is told by `choose`
        return False


@contextmanager
def replaced(name: str, engine: Engine) -> Iterator[None]:
    """Puts another engine in the place of one for a block, in all threads."""
    before = get(name)
    _LOADED[name] = engine
    try:
        yield
    finally:
        _LOADED[name] = before


@contextmanager
def changed(change: Callable[[Engine], Engine]) -> Iterator[None]:
    """Gives out each engine as `change` returns it, for a block; for tools that look over an engine's shoulder."""
    before = {}
    for name in names():
        try:
            before[name] = get(name)
        except Exception:  # noqa: BLE001 - `choose` tells of an engine that cannot be had
            continue
    _LOADED.update({name: change(engine) for name, engine in before.items()})
    try:
        yield
    finally:
        _LOADED.update(before)


def choose(wanted: str, device: Device) -> Choice:
    """Returns the engines to try for arrays on `device`.

    Args:
        wanted: An engine's name, or "auto" for every usable one in the order of preference. A named engine
            comes first and the other usable ones follow it, for when it fails.
        device: Where the arrays lie.

    Raises:
        EngineError: No engine is called `wanted`.
    """
    known = names()
    if wanted not in ("auto", *known):
        raise EngineError(_unknown(wanted))
    order = known if wanted == "auto" else (wanted, *(n for n in known if n != wanted))
    usable: list[Engine] = []
    reasons: dict[str, str] = {}
    for name in order:
        try:
            engine = get(name)
            reason = engine.unusable(device)
        except Exception as error:  # a fault in one engine must leave the others to run the program
            reason = message(
                f"Engine '{name}' cannot be asked",
                found=f"{type(error).__name__}: {error}",
                next_step=f"reinstall the package that provides '{name}'",
            )
            _log.debug("engine %s: %s", name, reason, exc_info=True)
        if reason is None:
            usable.append(engine)
        else:
            reasons[name] = reason
    return Choice(tuple(usable), reasons)


def skip_exit_handlers() -> None:
    """Makes the exit of this process skip what C and C++ libraries have registered for it so far.

    For `leave_behind` of an engine whose library would wait there for threads that the child of a fork does not have.

    Raises:
        NativeLibraryError: The native library of this package is missing.
    """
    from mxnet_trt_property import native

    native.skip_exit_handlers()


def no_int8(engine: Engine) -> frozenset[str]:
    """Returns the ONNX operators that an engine does not build in int8."""
    ask = getattr(engine, "no_int8", None)
    return frozenset() if ask is None else frozenset(ask())


def has_bfloat16(engine: Engine) -> bool:
    """Whether an engine builds models with bfloat16 inside."""
    return bool(getattr(engine, "has_bfloat16", False))


def check_precision(engine: str, options: Options, label: str) -> None:
    """Refuses a precision that no engine of this version offers.

    Raises:
        EngineError: The precision is not one of IMPLEMENTED_PRECISIONS.
    """
    if options.precision not in IMPLEMENTED_PRECISIONS:
        raise EngineError(
            message(
                f"Engine '{engine}' cannot build {label}: this precision is not implemented in this version",
                found=options.precision,
                required="one of " + ", ".join(IMPLEMENTED_PRECISIONS),
                next_step="unset MXNET_TENSORRT_PRECISION, or set it to fp32",
            )
        )


def check_count(what: str, label: str, found: int, required: int) -> None:
    """Refuses a run with another number of buffers than the model has.

    Raises:
        EngineError: The numbers differ.
    """
    if found != required:
        raise EngineError(message(f"{label}: wrong number of {what}", found=str(found), required=str(required)))


_Named = TypeVar("_Named", bound=Any)


def with_shapes(label: str, tensors: Sequence[_Named], shapes: Sequence[tuple[int, ...]]) -> list[_Named]:
    """Returns records with `name` and `shape` in which -1 has become a size.

    Raises:
        EngineError: A shape is not one of its tensor's.
    """
    check_count("shapes", label, len(shapes), len(tensors))
    for tensor, shape in zip(tensors, shapes):
        if len(tensor.shape) != len(shape) or any(size not in (-1, n) for size, n in zip(tensor.shape, shape)):
            raise EngineError(
                message(
                    f"{label}: tensor '{tensor.name}' cannot have this shape",
                    found=str(tuple(shape)),
                    required=str(tuple(tensor.shape)),
                )
            )
    return [tensor._replace(shape=tuple(shape)) for tensor, shape in zip(tensors, shapes)]


def check_buffer(label: str, name: str, buffer: Buffer, shape: Sequence[int], dtype: str) -> None:
    """Refuses a buffer that does not hold what the model's tensor `name` holds.

    Raises:
        EngineError: Element type or number of elements differ.
    """
    if buffer.dtype.name != dtype or math.prod(buffer.shape) != math.prod(shape):
        raise EngineError(
            message(
                f"{label}: the array for tensor '{name}' does not fit the engine",
                found=f"{buffer.dtype.name} {tuple(buffer.shape)}",
                required=f"{dtype} {tuple(shape)}",
                next_step="keep this subgraph on another engine, or in MXNet with MXNET_TENSORRT_EXCLUDE_NODES",
            )
        )
