"""ONNX Runtime on the CPU: the engine where there is no GPU, and what the others fall back to.

Inputs and outputs are bound to the addresses of the caller's arrays, so nothing is copied. A binding is made once
per set of addresses, and a repeated forward only runs it. For arrays on a GPU the runner copies to pinned host
memory and back on the caller's stream: slow, but a program whose TensorRT engine failed goes on with right results.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional, Union

import numpy as np

from mxnet_trt_property import forks, native
from mxnet_trt_property.cache import keys
from mxnet_trt_property.cache.build import Packed, Shelf
from mxnet_trt_property.cache.entry import Entry
from mxnet_trt_property.cuda_driver import CudaError, Driver, default
from mxnet_trt_property.engines import layers, ort_packing, ort_profile
from mxnet_trt_property.engines.registry import (
    Buffer,
    Device,
    Options,
    Shapes,
    check_buffer,
    check_count,
    check_precision,
    with_shapes,
)
from mxnet_trt_property.errors import EngineError, message
from mxnet_trt_property.logs import warn_once
from mxnet_trt_property.profiling import Section

# Executors have one stable set of arrays each; more sets than this means that the arrays move at every call.
MAX_BINDINGS = 8

_INSTALL = "pip install onnxruntime"
# Merges a Pad node into an average pooling that does not count its pad, which gives wrong numbers (seen in 1.19).
_DISABLED_OPTIMIZERS = ["Pad_Fusion"]
_SESSION_ARGUMENTS = {"providers": ["CPUExecutionProvider"], "disabled_optimizers": _DISABLED_OPTIMIZERS}

_SEVERITY_INFO = 1
_SEVERITY_FATAL = 4  # errors reach the user as exceptions, so that printing them too would say them twice
_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16; NumPy has no type object that ONNX Runtime knows
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
# An empty array may have no memory at all, and ONNX Runtime refuses a null pointer.
_EMPTY = np.zeros(64, np.uint8)


class _Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]  # -1 for a size that is a runner's
    dtype: str


class OnnxRuntimeEngine:
    """ONNX Runtime's CPU execution provider.

    Args:
        driver: The CUDA driver for arrays on a GPU; the process's own by default.
    """

    name = "onnxruntime"
    runs_on = "cpu"
    takes_profiles = True

    def __init__(self, driver: Optional[Driver] = None) -> None:
        self._driver = driver or default()

    def version(self) -> str:
        """Returns ONNX Runtime's version, or "" where it is not installed."""
        try:
            return str(_onnxruntime().__version__)
        except EngineError:
            return ""

    def unusable(self, device: Device) -> Optional[str]:
        """Returns why ONNX Runtime cannot run arrays of `device`, or None."""
        try:
            _onnxruntime()
        except EngineError as error:
            return str(error)
        if device.kind == "gpu":
            reason = self._driver.unavailable()
            if reason is not None:
                return (
                    f"ONNX Runtime needs the CUDA driver to copy arrays of mx.gpu({device.index}) to the host: {reason}"
                )
        return None

    def why_no_refit(self, options: Options, device: Device) -> str:
        """Returns why a built session cannot take new weights."""
        return "ONNX Runtime cannot change the weights of a session"

    def refused_nodes(self, model: bytes) -> dict[str, str]:
        """Returns the first node of the serialized ONNX `model` that has no kernel, by name, with the reason."""
        runtime = _onnxruntime()
        settings = runtime.SessionOptions()
        settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.log_severity_level = _SEVERITY_FATAL
        settings.intra_op_num_threads = 1
        try:
            runtime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception types share no base of their own
            words = " ".join(str(error).split())
            # It has several ways to name a node; a failure that names none shows again when the engine is built.
            found = re.search(r"node with name '([^']*)'|Node:? ?\(([^)\"]*)\)|Node, \(\"([^\"]*)\"", words)
            return {next(name for name in found.groups() if name): words} if found else {}
        return {}

    def build(self, model: bytes, options: Options, device: Device, label: str) -> OnnxRuntimeProgram:
        """Makes a session of the serialized ONNX `model`.

        Raises:
            EngineError: ONNX Runtime refused the model, in its own words.
        """
        check_precision(self.name, options, label)
        return self._program(model, _session_options(options, label), len(model), label, options)

    def _program(
        self, source: Union[bytes, str], settings: Any, size_bytes: int, label: str, options: Options
    ) -> OnnxRuntimeProgram:
        """Makes the program of a model, by its bytes or its file's name."""
        runtime = _onnxruntime()
        try:
            session = runtime.InferenceSession(source, settings, **_SESSION_ARGUMENTS)
        except Exception as error:  # its exception types share no base of their own
            raise _error(f"ONNX Runtime {runtime.__version__} cannot build {label}", error) from error
        if hasattr(session, "_model_bytes"):
            session._model_bytes = None  # the whole model a second time, for a change of providers that never comes
        kept = (source, options) if options.layer_times and isinstance(source, bytes) else None
        return OnnxRuntimeProgram(session, size_bytes, self._driver, label, bool(options.profile), kept)

    # -- the cache on disk (cache/build.py: CachingEngine) -------------------------------------

    keeps_body = False  # ONNX Runtime maps the weights out of the file

    def cache_variants(self, device: Device) -> tuple[str, ...]:
        """Returns the CPU: the optimized model has layouts and kernels that were chosen for it."""
        return (keys.cpu(),) if keys.cpu() else ()

    def build_packed(
        self, model: bytes, options: Options, device: Device, label: str, shelf: Shelf, keep: Callable[[Packed], None]
    ) -> OnnxRuntimeProgram:
        """Makes a session of the serialized ONNX `model`, and keeps what its optimization made of it.

        Raises:
            EngineError: ONNX Runtime refused the model, in its own words.
        """
        reason = ""
        with shelf.scratch() as scratch:
            if scratch is not None:
                settings = _session_options(options, label)
                ort_packing.save_to(scratch, settings)
                try:
                    check_precision(self.name, options, label)
                    program = self._program(model, settings, len(model), label, options)
                    keep(ort_packing.pack(scratch))
                    return program
                except (EngineError, ort_packing.PackingError) as error:
                    # A full disk among other things; without a file to write the build says what else it may be.
                    reason = str(error.__cause__ or error).replace(f"{scratch}{os.sep}", "")
        program = self.build(model, options, device, label)
        if reason:
            what = f"{label}: its optimized model cannot be kept in the cache"
            warn_once(what, found=reason, next_step="make room on the cache's disk, or set MXNET_TENSORRT_CACHE=0")
        return program

    def unpack(self, packed: Entry, options: Options, device: Device, label: str, shelf: Shelf) -> OnnxRuntimeProgram:
        """Returns a session of an optimized model, whose weights stay in the file.

        Raises:
            EngineError: ONNX Runtime refused it.
            PackingError: It is not what `build_packed` keeps.
            OSError: Nothing can be written beside it, which versions of ONNX Runtime before 1.21 need.
        """
        model = ort_packing.model_of(packed)
        settings = _session_options(options, label)
        settings.graph_optimization_level = _onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
        size = len(packed.head) + packed.body_bytes
        try:
            settings.add_session_config_entry(ort_packing.FOLDER_OPTION, str(packed.path.parent))
            return self._program(model, settings, size, label, options)
        except EngineError:
            with shelf.file(model) as file:
                return self._program(str(file), settings, size, label, options)


def _session_options(options: Options, label: str) -> Any:
    """Returns the options of a session that is to run."""
    runtime = _onnxruntime()
    settings = runtime.SessionOptions()
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = _SEVERITY_INFO if options.verbose else _SEVERITY_FATAL
    settings.logid = label
    # Its int8 kernels add in 16 bits on processors without VNNI, where sums may overflow. Without them, quantized
    # models give on every processor the numbers that their Q and DQ nodes say.
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    threads = _omp_num_threads()
    if threads:
        settings.intra_op_num_threads = threads
    return settings


class OnnxRuntimeProgram:
    """A session with its weights; ONNX Runtime lets any number of threads run it at once."""

    def __init__(
        self,
        session: Any,
        size_bytes: int,
        driver: Driver,
        label: str,
        is_flexible: bool = False,
        profiled: Optional[tuple[bytes, Options]] = None,
    ) -> None:
        """Takes over a session; `profiled` is its model and options where it will be asked for its nodes' times."""
        self.size_bytes = size_bytes
        self._profiled = profiled
        self._session: Optional[Any] = session
        self._driver = driver
        self._label = label
        self._inputs = [_tensor(value, label, is_flexible) for value in session.get_inputs()]
        self._outputs = [_tensor(value, label, is_flexible) for value in session.get_outputs()]

    def runner(self, device: Device) -> OnnxRuntimeRunner:
        """Returns a new runner for arrays on `device`.

        Raises:
            EngineError: The program is closed, or there is no pinned memory for arrays on a GPU.
        """
        return self._runner(device, self._inputs, self._outputs)

    def runner_for(self, device: Device, shapes: Shapes) -> OnnxRuntimeRunner:
        """Returns a new runner for arrays of these shapes; see `runner`."""
        return self._runner(
            device,
            with_shapes(self._label, self._inputs, shapes.inputs),
            with_shapes(self._label, self._outputs, shapes.outputs),
        )

    def _runner(self, device: Device, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]) -> OnnxRuntimeRunner:
        if self._session is None:
            raise EngineError(message(f"The ONNX Runtime program of {self._label} is closed"))
        runner = OnnxRuntimeRunner(self._session, inputs, outputs, self._driver, self._label)
        if device.kind == "gpu":
            runner.stage(device.gpu_index)
        return runner

    def layer_times(self, device: Device, runs: int) -> layers.LayerTimes:
        """Times the nodes of the model, as `ProfiledProgram.layer_times` says.

        Raises:
            EngineError: The program was built without Options.layer_times, or ONNX Runtime failed.
        """
        if self._profiled is None:
            raise EngineError(message(f"{self._label} was not built to be profiled", required="Options.layer_times"))
        model, options = self._profiled
        runtime = _onnxruntime()
        feed = {t.name: layers.random_array(t.shape, np.dtype(t.dtype)) for t in self._inputs}
        outputs = [np.zeros(t.shape, t.dtype) for t in self._outputs]
        ins, outs = ([Buffer(a.ctypes.data, a.shape, a.dtype) for a in group] for group in (feed.values(), outputs))
        runner = self.runner(Device("cpu", 0))
        run_ms = layers.median_ms(lambda: runner.run(ins, outs, 0), runs)
        try:
            found = ort_profile.node_times(
                runtime, model, _session_options(options, self._label), _SESSION_ARGUMENTS, feed, runs
            )
        except Exception as error:  # its exception types share no base of their own
            raise _error(f"ONNX Runtime cannot profile {self._label}", error) from error
        finally:
            runner.close()
        return layers.LayerTimes(found, run_ms)

    def close(self) -> None:
        """Lets go of the session; runners that exist keep it alive."""
        self._session = None


class OnnxRuntimeRunner:
    """Runs a session on the arrays it is given, in place."""

    def __init__(
        self,
        session: Any,
        inputs: Sequence[_Tensor],
        outputs: Sequence[_Tensor],
        driver: Driver,
        label: str,
    ) -> None:
        self._session: Optional[Any] = session
        self._inputs = inputs
        self._outputs = outputs
        self._driver = driver
        self._staging: Optional[_Staging] = None
        self._label = label
        self._bindings: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def stage(self, gpu_index: int) -> None:
        """Makes the runner take arrays on CUDA device `gpu_index`, by way of pinned memory."""
        self._staging = _Staging(self._driver, gpu_index, (*self._inputs, *self._outputs), self._lock)

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], stream: int) -> None:
        """Runs the model; "gpu" buffers are copied through the host and the call waits for `stream`.

        Raises:
            EngineError: ONNX Runtime failed, in its own words, or the buffers do not fit the model.
        """
        with self._lock:
            staging = self._staging
            if self._session is None or (staging is not None and staging.freed):
                raise EngineError(message(f"The ONNX Runtime runner of {self._label} is closed"))
            if staging is None:
                self._run(self._session, inputs, outputs)
                return
            self._check(inputs, outputs)  # before anything is copied into memory of the model's sizes
            with self._driver.on_device(staging.gpu_index):
                with Section("copy in", self._label):
                    host_inputs = staging.fetch(inputs, stream)
                self._run(self._session, host_inputs, staging.hosts(outputs, len(inputs)))
                with Section("copy out", self._label):
                    staging.store(outputs, len(inputs), stream)

    def _run(self, session: Any, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        key = (tuple(inputs), tuple(outputs))
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bind(session, inputs, outputs)
            self._bindings[key] = binding
            if len(self._bindings) > MAX_BINDINGS:
                self._bindings.popitem(last=False)
        else:
            self._bindings.move_to_end(key)
        try:
            session.run_with_iobinding(binding)
        except Exception as error:
            raise _error(f"ONNX Runtime cannot run {self._label}", error) from error

    def _check(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        check_count("inputs", self._label, len(inputs), len(self._inputs))
        check_count("outputs", self._label, len(outputs), len(self._outputs))
        for tensor, buffer in zip((*self._inputs, *self._outputs), (*inputs, *outputs)):
            check_buffer(self._label, tensor.name, buffer, tensor.shape, tensor.dtype)

    def _bind(self, session: Any, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> Any:
        self._check(inputs, outputs)
        binding = session.io_binding()
        for tensor, buffer in zip(self._inputs, inputs):
            binding.bind_input(tensor.name, "cpu", 0, _element_type(tensor), list(tensor.shape), _address(buffer))
        for tensor, buffer in zip(self._outputs, outputs):
            binding.bind_output(tensor.name, "cpu", 0, _element_type(tensor), list(tensor.shape), _address(buffer))
        return binding

    def close(self) -> None:
        """Lets go of the session and frees the pinned memory."""
        with self._lock:
            self._session = None
            self._bindings.clear()
        if self._staging is not None:
            self._staging.close()


class _Staging:
    """Pinned host memory for each tensor of a model whose arrays lie on a GPU."""

    def __init__(self, driver: Driver, gpu_index: int, tensors: Sequence[_Tensor], lock: threading.Lock) -> None:
        self.driver = driver
        self.gpu_index = gpu_index
        self._addresses: list[int] = []
        # Also run at exit, when an engine thread may still be running the model: hence the runner's lock.
        self._finalizer = weakref.finalize(self, _free_pinned, driver, gpu_index, self._addresses, lock)
        with driver.on_device(gpu_index):
            for tensor in tensors:
                nbytes = math.prod(tensor.shape) * _item_bytes(tensor.dtype)
                self._addresses.append(driver.host_alloc(max(nbytes, 64)))

    @property
    def freed(self) -> bool:
        """Whether `close()` was called, or the interpreter is exiting."""
        return not self._finalizer.alive

    def hosts(self, buffers: Sequence[Buffer], first: int) -> list[Buffer]:
        """Returns the pinned counterparts of `buffers`, the first of which is tensor number `first`."""
        return [buffer._replace(address=address) for buffer, address in zip(buffers, self._addresses[first:])]

    def fetch(self, buffers: Sequence[Buffer], stream: int) -> list[Buffer]:
        """Copies the inputs to the host after all that `stream` has queued, and waits."""
        hosts = self.hosts(buffers, 0)
        for buffer, host in zip(buffers, hosts):
            nbytes = _nbytes(buffer)
            if nbytes:
                self.driver.copy_to_host(host.address, buffer.address, nbytes, stream)
        self.driver.synchronize(stream)
        return hosts

    def store(self, buffers: Sequence[Buffer], first: int, stream: int) -> None:
        """Copies the outputs to the device; waits, since the next run may use another stream."""
        for buffer, host in zip(buffers, self.hosts(buffers, first)):
            nbytes = _nbytes(buffer)
            if nbytes:
                self.driver.copy_to_device(buffer.address, host.address, nbytes, stream)
        self.driver.synchronize(stream)

    def close(self) -> None:
        """Frees the memory."""
        self._finalizer()


def _free_pinned(driver: Driver, gpu_index: int, addresses: list[int], lock: threading.Lock) -> None:
    # Nothing can be done about a driver that is gone already, as at the end of a process.
    with lock, contextlib.suppress(CudaError), driver.on_device(gpu_index):
        while addresses:
            driver.host_free(addresses.pop())


def _onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except Exception as error:  # a broken installation raises more than ImportError
        raise EngineError(
            message("ONNX Runtime cannot be imported", found=f"{type(error).__name__}: {error}", next_step=_INSTALL)
        ) from None


@forks.in_child
def _leave_behind() -> None:
    # Its destructors wait for a thread of the parent's when the child exits (seen in 1.32.0), used or not.
    if "onnxruntime" in sys.modules:
        native.skip_exit_handlers()


def _omp_num_threads() -> int:
    """Returns OMP_NUM_THREADS, by which MXNet's users limit its threads, or 0 for ONNX Runtime's own choice."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def _tensor(value: Any, label: str, is_flexible: bool) -> _Tensor:
    dtype = _DTYPES.get(value.type)
    if dtype is None or not (is_flexible or all(isinstance(size, int) for size in value.shape)):
        raise EngineError(
            message(
                f"ONNX Runtime cannot run {label}: tensor '{value.name}' is of a kind that MXNet has no array for",
                found=f"{value.type} {value.shape}",
                required="a static shape and one of " + ", ".join(sorted(_DTYPES.values())),
            )
        )
    return _Tensor(value.name, tuple(n if isinstance(n, int) else -1 for n in value.shape), dtype)


def _element_type(tensor: _Tensor) -> Any:
    return _ONNX_BFLOAT16 if tensor.dtype == "bfloat16" else np.dtype(tensor.dtype).type


def _item_bytes(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _nbytes(buffer: Buffer) -> int:
    return math.prod(buffer.shape) * buffer.dtype.itemsize


def _address(buffer: Buffer) -> int:
    return buffer.address if _nbytes(buffer) else int(_EMPTY.ctypes.data)


def _error(what: str, error: Exception) -> EngineError:
    return EngineError(
        message(
            what,
            found=str(error),
            next_step="leave the node to MXNet with MXNET_TENSORRT_EXCLUDE_NODES=<its name> or "
            "MXNET_TENSORRT_EXCLUDE_OPS",
        )
    )
