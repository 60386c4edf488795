"""`compile`: a whole network as one engine with its weights inside, called without MXNet's executor.

For whoever is willing to change a line of the program for the last microseconds, and wants MXNet's copy of the weights
freed. The graph must be wholly supported; `MXNET_SUBGRAPH_BACKEND=TensorRT` is for the others.

Memory: a compiled model holds the engine, which has the weights, and no NDArray. Besides it holds the serialized ONNX
model, about the size of the weights, for `save()`; `keep_onnx=False` drops that. While `compile` runs, the weights
exist some three times more in host memory.

Threads: any number may call one model at once. Each has a runner of its own (an execution context and buffers), made at
its first call and kept for the next thread when it ends. No lock of this module is held while an engine runs.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from mxnet_trt_property import compiled_arrays, compiled_file, forks, settings
from mxnet_trt_property._version import __version__
from mxnet_trt_property.compiled_arrays import ArrayError, Tensor
from mxnet_trt_property.compiled_build import LABEL, build_first
from mxnet_trt_property.compiled_file import ModelFileError
from mxnet_trt_property.compiled_seats import Held, Idle, Key, LeftBehind, Seat
from mxnet_trt_property.compiled_sizes import Fit, Sizes
from mxnet_trt_property.engines import registry as engines
from mxnet_trt_property.engines.registry import Device, Program, Shapes
from mxnet_trt_property.errors import (
    TensorRTPropertyError,
    message,
)
from mxnet_trt_property.precision.plans import Plan

if TYPE_CHECKING:
    from mxnet_trt_property.compiled_plan import Calibration

__all__ = ["ArrayError", "Bound", "CompileError", "CompiledModel", "ModelFileError", "compile", "load"]


_models: weakref.WeakSet[CompiledModel] = weakref.WeakSet()


class CompileError(TensorRTPropertyError):
    """A network cannot be compiled as a whole.

    Attributes:
        refused: For each node without a conversion its name, operator and reason.
    """

    def __init__(self, text: str, refused: Sequence[tuple[str, str, str]] = ()) -> None:
        super().__init__(text)
        self.refused = tuple(refused)


class Bound:
    """A compiled model tied to fixed arrays: the fastest way to run it. Calling it reads and writes those arrays.

    It has a runner of its own, and calls from several threads wait for each other. With TensorRT, large arrays in host
    memory are pinned for as long as it lives, and a call replays the captured run without Python. Contents of NDArrays
    that MXNet is still computing are not waited for: `wait_to_read()` on an input that an operator writes is up to the
    caller.

    Attributes:
        inputs: The arrays that are read, in the order of `input_names`.
        outputs: What a call returns: the array that is written, or a list if the model has several outputs.
    """

    def __init__(
        self,
        seat: Seat,
        idle: Idle,
        views: tuple[Sequence[compiled_arrays.View], Sequence[compiled_arrays.View]],
        arrays: tuple[tuple[Any, ...], Any],
        stream: Optional[int],
    ) -> None:
        self.inputs, self.outputs = arrays
        self._replay = seat.tie(tuple(v.buffer for v in views[0]), tuple(v.buffer for v in views[1]), stream)
        self._call = self._replay.run
        # Holds the arrays until they are unpinned.
        weakref.finalize(self, _untie, seat, idle, (views, arrays))

    def __call__(self) -> Any:
        """Runs the model once and returns `outputs`, the same objects each time.

        Raises:
            EngineError: The engine failed, or the model is closed.
        """
        self._call()
        return self.outputs

    def bare(self) -> Optional[Callable[[], None]]:
        """Returns what the engine does at a call and nothing else, for benchmarks; None if it does not tell."""
        replay = self._replay.bare()
        if replay is None:
            return None

        def bare(owner: Bound = self) -> None:
            # The default argument keeps the arrays that the replay works on as long as somebody has the replay.
            replay()

        return bare


def _untie(seat: Seat, idle: Idle, arrays: Any) -> None:
    seat.untie()
    idle.give(seat)


@forks.in_child
def _leave_behind() -> object:
    return [model.leave_behind() for model in list(_models)]


class CompiledModel:
    """A network as one engine; made by `compile` and `load`. It can be called, and used in a `with` statement.

    Attributes:
        input_names: The inputs, in the order of positional arguments.
        output_names: The outputs, by the symbol's own names.
        inputs: Name, shape and dtype of each input; of a model that serves several shapes those it is tuned for.
        outputs: Name, shape and dtype of each output.
        profiles: For each input of a model that serves several shapes the smallest, the one it is tuned for, and the
            largest; empty for fixed shapes.
        unused_names: Arguments of the network that inference does not read, such as a label: they may be given.
        engine: The name of the engine.
        precision: What the engine computes in.
        onnx: The serialized ONNX model, or None where it was not kept.
    """

    def __init__(
        self, meta: Mapping[str, Any], onnx: bytes, keep_onnx: bool, config: settings.Settings, prefer: str = ""
    ) -> None:
        """Builds the engine; use `compile` or `load`."""
        self.inputs = _tensors(meta["inputs"])
        self.outputs = _tensors(meta["outputs"])
        self.input_names = tuple(t.name for t in self.inputs)
        self.output_names = tuple(t.name for t in self.outputs)
        self.unused_names = tuple(str(name) for name in meta["unused"])
        self.precision = config.precision
        self.onnx: Optional[bytes] = onnx if keep_onnx else None
        self._meta = dict(meta)
        self._sizes = Sizes(meta["sizes"], self.inputs, self.outputs) if meta.get("sizes") else None
        self._fixed = Fit(self.inputs, self.outputs, None)
        profile = self._sizes.profile if self._sizes is not None else ()
        self.profiles = dict(zip(self.input_names, profile))
        self._gpu_index = config.device
        self._idle = Idle()
        self._local = threading.local()
        self._seats: weakref.WeakSet[Seat] = weakref.WeakSet()
        self._seats_lock = threading.Lock()
        self._closed = False
        self._program: Program
        shapes = self._sizes.tuned.shapes if self._sizes is not None else None
        plan = Plan.from_json(meta["plan"])
        self._program, self.engine, first = build_first(onnx, plan, config, prefer, profile, shapes)
        self._seats.add(first)
        self._idle.give(first)
        _models.add(self)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{t.name}: {t.dtype} {t.shape}" for t in self.inputs)
        return f"<CompiledModel on {self.engine} ({inputs}) -> {', '.join(self.output_names)}>"

    def __call__(self, *arrays: Any, out: Any = None, stream: Optional[int] = None, **named: Any) -> Any:
        """Runs the model on arrays given by position or by name.

        Args:
            arrays: NumPy arrays, NDArrays of MXNet, or arrays with DLPack, all on one device. Arrays on a GPU need a
                TensorRT engine to be fast.
            out: An array to write, or a sequence of them if the model has several outputs. New arrays without it.
            stream: A CUDA stream (a CUstream as an integer) for arrays on a GPU. The work is queued on it and the call
                does not wait; the arrays must stay alive until it is done. Without it the call returns when the
                outputs are written.
            named: Arrays by the inputs' names; one that is called 'out' or 'stream' goes by position.

        Returns:
            The output, of the kind of the first input; a list if the model has several outputs. With `out`, the arrays
            of `out`.

        Raises:
            ArrayError: An array is missing, unknown, or of another shape, dtype or layout than the model takes.
            EngineError: The engine failed, or the model is closed.
        """
        given = self._given(arrays, named)
        fit = self._fit(given)
        seat = self._seat(self._device(given), fit.shapes)
        sources, targets, result = self._views(given, out, seat, stream, fit)
        seat.run(tuple(v.buffer for v in sources), tuple(v.buffer for v in targets), stream)
        return result()

    def bind(self, *arrays: Any, out: Any = None, stream: Optional[int] = None, **named: Any) -> Bound:
        """Returns the model tied to these arrays; the arguments and errors are those of a call."""
        given = self._given(arrays, named)
        fit = self._fit(given)
        key = (self._device(given), fit.shapes)
        seat = self._idle.take(key) or self._new_seat(key)
        sources, targets, result = self._views(given, out, seat, stream, fit)
        return Bound(seat, self._idle, (sources, targets), (tuple(given), result()), stream)

    def save(self, path: compiled_file.PathLike) -> None:
        """Writes the model to a file for `load`; a file that was there is replaced at once.

        Raises:
            CompileError: The ONNX model was not kept.
            OSError: The file cannot be written.
        """
        if self.onnx is None:
            raise CompileError(
                message(
                    "A compiled model cannot be saved: its ONNX model was not kept",
                    next_step="pass keep_onnx=True to compile or load",
                )
            )
        compiled_file.write(path, self._meta, self.onnx)

    def close(self) -> None:
        """Frees the engine, after the calls under way; later calls raise EngineError. May be repeated."""
        self._closed = True
        with self._seats_lock:
            seats = list(self._seats)
        for seat in seats:
            seat.close()
        self._program.close()
        self.onnx = None

    def leave_behind(self) -> object:
        """Makes later calls fail, in the child of a fork; returns what must not be freed."""
        self._seats_lock = threading.Lock()
        left = (self._program, [seat.leave_behind() for seat in self._seats])
        self._program = LeftBehind()
        return left

    def __enter__(self) -> CompiledModel:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _given(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> Sequence[Any]:
        """Returns the arrays in the order of the inputs."""
        if not named and len(arrays) == len(self.inputs):
            return arrays
        by_name = dict(zip(self.input_names, arrays))
        twice = sorted(set(by_name) & set(named))
        by_name.update(named)
        unknown = sorted(set(by_name) - set(self.input_names) - set(self.unused_names))
        missing = [name for name in self.input_names if name not in by_name]
        if twice or unknown or missing or len(arrays) > len(self.inputs):
            found = f"{len(arrays)} by position" + "".join(f", {name}" for name in named)
            raise ArrayError(
                message(
                    f"{LABEL} was called with the wrong inputs",
                    found=found,
                    required=f"{len(self.inputs)}: " + ", ".join(self.input_names),
                )
            )
        return [by_name[name] for name in self.input_names]

    def _device(self, given: Sequence[Any]) -> Device:
        kind, index = compiled_arrays.place_of(given[0] if given else None, f"input '{(*self.input_names, '')[0]}'")
        return Device("cpu", 0, self._gpu_index) if kind == "cpu" else Device("gpu", index, index)

    def _fit(self, given: Sequence[Any]) -> Fit:
        return self._fixed if self._sizes is None else self._sizes.fit(given, LABEL)

    def _seat(self, device: Device, shapes: Optional[Shapes] = None) -> Seat:
        """Returns this thread's seat."""
        held: Optional[Held] = getattr(self._local, "held", None)
        if held is None:
            held = self._local.held = Held(self._idle)
        key = (device, shapes)
        seat = held.seats.get(key)
        if seat is None:
            return held.add(self._idle.take(key) or self._new_seat(key))
        if shapes is not None:
            held.seats.move_to_end(key)
        return seat

    def _new_seat(self, key: Key) -> Seat:
        seat = Seat(self._program, *key)
        with self._seats_lock:
            self._seats.add(seat)
        if self._closed:  # closed by another thread meanwhile, which did not see this one
            seat.close()
        return seat

    def _views(
        self, given: Sequence[Any], out: Any, seat: Seat, stream: Optional[int], fit: Fit
    ) -> tuple[list[compiled_arrays.View], list[compiled_arrays.View], Callable[[], Any]]:
        """Returns where inputs and outputs lie, and a function that returns the outputs as the caller gets them."""
        used_stream = seat.stream if stream is None else stream
        sources = [
            compiled_arrays.read(array, tensor, used_stream, f"input '{tensor.name}'")
            for array, tensor in zip(given, fit.inputs)
        ]
        like = given[0] if given else np.empty(0)
        kind = compiled_arrays.kind_of(like, "input")
        if out is None:
            fresh = [kind.empty(tensor, like) for tensor in fit.outputs]
        else:
            fresh = list(out) if isinstance(out, (list, tuple)) else [out]
            engines.check_count("arrays to write (out=)", LABEL, len(fresh), len(self.outputs))
        targets = [
            compiled_arrays.read(array, tensor, used_stream, f"output '{tensor.name}'", write=True)
            for array, tensor in zip(fresh, fit.outputs)
        ]
        compiled_arrays.same_place([*sources, *targets], (*self.input_names, *self.output_names))

        def result() -> Any:
            arrays = fresh if out is not None else [kind.finish(array, like) for array in fresh]
            return arrays[0] if len(arrays) == 1 else arrays

        return sources, targets, result


def compile(
    symbol: Any,
    arg_params: Mapping[str, Any],
    aux_params: Mapping[str, Any],
    shapes: Optional[Mapping[str, Sequence[int]]] = None,
    *,
    profiles: Optional[Mapping[str, Sequence[Sequence[int]]]] = None,
    dtypes: Optional[Mapping[str, Any]] = None,
    engine: Optional[str] = None,
    precision: Optional[str] = None,
    calibration: Calibration = None,
    device: Optional[int] = None,
    keep_onnx: bool = True,
    **options: Any,
) -> CompiledModel:
    """Compiles a network with its weights into one engine.

    The weights are read once. Nothing of MXNet's is kept, so the caller can drop the parameters, and later writes into
    them have no effect.

    Args:
        symbol: An `mx.sym.Symbol`.
        arg_params: The values of the arguments that are parameters, NDArrays or NumPy arrays, by name; names that the
            network does not have are ignored.
        aux_params: The values of the auxiliary states.
        shapes: The shape of each input that is given at a call. An argument named here is an input even if
            `arg_params` has a value for it. What inference does not read (a label) may be left out.
        profiles: For inputs whose shapes vary between calls the smallest shape, the one to tune the engine for, and the
            largest; they need not be in `shapes`. The model then takes every shape in between.
        dtypes: The dtypes of inputs that are not float32.
        engine: MXNET_TENSORRT_ENGINE's value for this model. An engine that is named is used or an error says why not;
            with "auto" a failing engine is followed by the next one, with a warning.
        precision: MXNET_TENSORRT_PRECISION's value for this model.
        calibration: With "int8" the path of a calibration table, or samples of the input to calibrate on: one, or a
            sequence of them; a sample is an array for the first input or a dictionary of arrays by the inputs' names.
            With "fp16" and "bf16" the first sample shows what exceeds the type; without one nothing is run, and
            `keep_fp32` names the nodes and operators to leave in float32.
        device: The GPU that serves arrays in host memory: MXNET_TENSORRT_DEVICE's value for this model.
        keep_onnx: Whether the serialized ONNX model is kept for `save()`.
        options: Other options of the backend, the variables' names in lower case without the prefix.

    Raises:
        CompileError: A node has no conversion (all of them are listed), an argument has neither value nor shape,
            shapes and values contradict the network, or no one engine can serve all of `profiles` (says why).
        EngineError: No engine could be built.
        SettingError: An option or a sample is not valid, or int8 has no calibration.
    """
    from mxnet_trt_property import compiled_plan, compiled_source

    # The variables are for executors, whose other sizes have engines of their own; here they would be refused.
    given = {"engine": engine, "precision": precision, "device": device, "profiles": dict(profiles or {})}
    given = {**given, "max_batch_size": 0, **options}
    config = settings.read({k: str(v) for k, v in given.items() if v is not None})
    meta, onnx, model = compiled_source.convert(symbol, arg_params, aux_params, shapes or {}, dtypes or {}, config)
    plan = compiled_plan.make(onnx, model, tuple(name for name, *_ in meta["inputs"]), config, calibration, LABEL)
    meta = {
        **meta,
        "plan": plan.as_json(),
        "package": __version__,
        "engine": config.engine,
        "precision": config.precision,
    }
    return CompiledModel(meta, onnx, keep_onnx, config)


def load(
    path: compiled_file.PathLike,
    *,
    engine: Optional[str] = None,
    device: Optional[int] = None,
    keep_onnx: bool = False,
    **options: Any,
) -> CompiledModel:
    """Builds the engine of a model that `CompiledModel.save()` wrote. Does not need MXNet.

    Args:
        path: The file.
        engine: As in `compile`. Where neither this nor MXNET_TENSORRT_ENGINE names one, the engine that `compile` was
            asked for is tried first.
        device: As in `compile`.
        keep_onnx: As in `compile`; the file itself is there to be copied.
        options: As in `compile`.

    Raises:
        ModelFileError: The file is foreign or damaged.
        EngineError: No engine could be built.
        SettingError: An option is not valid.
        OSError: The file cannot be read.
    """
    meta, onnx = compiled_file.read(path)
    given = {"engine": engine, "device": device, **options}
    try:
        given["precision"] = str(meta["precision"])
        prefer = str(meta["engine"])
        tensors = [_tensors(meta[key]) for key in ("inputs", "outputs")]
        if meta.get("sizes"):
            Sizes(meta["sizes"], *tensors)
        tuple(meta["unused"])
        Plan.from_json(meta["plan"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            message(
                f"The compiled model {path} has a description that cannot be read",
                found=f"{type(error).__name__}: {error}",
                next_step="compile and save the model again with this version",
            )
        ) from error
    config = settings.read({k: str(v) for k, v in given.items() if v is not None})
    return CompiledModel(meta, onnx, keep_onnx, config, prefer if prefer in engines.names() else "")


def _tensors(rows: Sequence[Any]) -> tuple[Tensor, ...]:
    return tuple(Tensor(str(name), tuple(int(n) for n in shape), np.dtype(dtype)) for name, shape, dtype in rows)
