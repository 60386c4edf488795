"""TensorRT's Python bindings: importing them, their messages, and ONNX model -> serialized engine.

`tensorrt` and `tensorrt_rtx` have one API, so that one path serves both; what a version lacks is looked up, not
assumed. Nothing here needs a GPU with TensorRT-RTX: with no compute capability set it builds an engine for every GPU
from Ampere on, ahead of time, and the GPU's own code is made when the engine is first loaded there.
"""

from __future__ import annotations

import collections
import ctypes
import importlib
import itertools
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional, Protocol

from mxnet_trt_property import building
from mxnet_trt_property.engines import trt_progress
from mxnet_trt_property.engines.trt_refit import Outline, outline
from mxnet_trt_property.errors import DeviceMemoryError, EngineError, message

_EXTRAS = {"tensorrt": "tensorrt-cu12", "tensorrt_rtx": "rtx-cu12"}
_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
# A message log for the words of a failed call: long enough for a parser's list, short enough to keep for ever.
_KEPT_MESSAGES = 64
# Names of TensorRT's DataType members for what MXNet has arrays of.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}


class TensorSpec(NamedTuple):
    """One input or output of a model: -1 in the shape varies; `dtype` is NumPy's name for the element type."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Plan(NamedTuple):
    """A serialized engine, with the model's inputs and outputs in the model's order."""

    data: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    outline: Optional[Outline] = None  # of the model, where the engine was built to take new weights


class Timings(Protocol):
    """Measurements that outlive a build."""

    def attach(self, config: Any) -> None:
        """Gives them to the build with this config."""

    def keep(self) -> None:
        """Keeps what the build added."""


class Library:
    """One of the two bindings modules, imported at first use.

    Use `library()` to get one: TensorRT reports to the first logger of a process only, so that a module must not
    have two.

    Args:
        module: The module to import, "tensorrt" or "tensorrt_rtx" (or another with the same API).
    """

    def __init__(self, module: str) -> None:
        self.title = _TITLES.get(module, module)
        self._module_name = module
        self._module: Optional[Any] = None
        self._missing = ""
        self._logger: Optional[Any] = None
        self._import_lock = threading.Lock()
        self._build_lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._errors: collections.deque[tuple[int, str]] = collections.deque(maxlen=_KEPT_MESSAGES)
        self.verbose = False
        self.detailed = False  # whether engines are built to tell what their layers were made of

    def module(self) -> Any:
        """Returns the bindings module.

        Raises:
            EngineError: It cannot be imported; says what to install.
        """
        module = self._module
        if module is None:
            with self._import_lock:
                module = self._module
                if module is None:
                    # Looked for once: Python remembers no failure, and every bind asks.
                    if self._missing:
                        raise EngineError(self._missing)
                    module = self._import()
                    self._logger = self._make_logger(module)
                    self._module = module
        return module

    def _import(self) -> Any:
        found = ""
        # The top module of TensorRT-RTX comes in a source distribution that only re-exports the bindings'.
        for candidate in (self._module_name, self._module_name + "_bindings"):
            try:
                module = importlib.import_module(candidate)
                if hasattr(module, "Builder"):
                    return module
                found = found or f"module {candidate} without a Builder"
            except Exception as error:  # a missing CUDA library raises other errors than ImportError
                found = found or f"{type(error).__name__}: {error}"
        extra = _EXTRAS.get(self._module_name)
        step = f'pip install "mxnet-trt-property[{extra}]"' if extra else f"install {self._module_name}"
        self._missing = message(f"{self.title} cannot be imported", found=found, next_step=step)
        raise EngineError(self._missing)

    @property
    def version(self) -> str:
        """The library's version, or "" where it is not installed."""
        try:
            return str(self.module().__version__)
        except EngineError:
            return ""

    @property
    def full_name(self) -> str:
        """The library's name and version, for messages."""
        return f"{self.title} {self.version}".strip()

    # -- messages ------------------------------------------------------------------------------

    @property
    def logger(self) -> Any:
        """The ILogger that all of the library's objects are made with."""
        self.module()
        return self._logger

    def _make_logger(self, trt: Any) -> Any:
        log = logging.getLogger(f"mxnet_trt_property.{self._module_name}")
        severity = trt.ILogger.Severity
        errors = (severity.ERROR, severity.INTERNAL_ERROR)
        # Errors are kept and raised by whoever made the call; without `verbose` the log has them for debugging only.
        levels = {severity.VERBOSE: logging.DEBUG, severity.INFO: logging.INFO, severity.WARNING: logging.WARNING}
        library = self

        class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is only known at run time
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, text: str) -> None:
                if level in errors:
                    library._errors.append((next(library._numbers), text))
                if library.verbose:
                    log.log(levels.get(level, logging.ERROR), "%s", text)
                elif level is not severity.VERBOSE and log.isEnabledFor(logging.DEBUG):
                    log.debug("%s", text)

        logger = Logger()
        # The library keeps a pointer to the first logger it sees for as long as it is loaded, so this object must
        # outlive even the module's teardown at exit.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(logger))
        return logger

    def mark(self) -> int:
        """Returns a position in the library's messages, for `words()`."""
        return next(self._numbers)

    def words(self, mark: int) -> str:
        """Returns the errors that the library reported after `mark`; those of another thread may be among them."""
        texts = (" ".join(text.split()) for number, text in tuple(self._errors) if number > mark)
        return "; ".join(dict.fromkeys(texts)) or "no message of the library's"

    # -- building ------------------------------------------------------------------------------

    def strongly_typed(self) -> int:
        """Returns the flags of a network whose types are those of the model, in any version."""
        flag = getattr(self.module().NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    def build(
        self,
        model: bytes,
        label: str,
        workspace_bytes: int = 0,
        compute_capabilities: Sequence[str] = (),
        profile: Sequence[Sequence[Sequence[int]]] = (),
        refittable: bool = False,
        timings: Optional[Timings] = None,
    ) -> Plan:
        """Builds the serialized ONNX `model`.

        Args:
            model: The ONNX model.
            label: What the model is, in messages.
            workspace_bytes: The most scratch memory of the engine; 0 leaves it to the library.
            compute_capabilities: The GPUs to build for, such as "8.6" (TensorRT-RTX); empty for its default.
            profile: See `registry.Options`.
            refittable: Whether the engine shall be able to take new weights (BuilderFlag.REFIT).
            timings: Measurements of earlier builds, to which this one adds its own.

        Raises:
            EngineError: The parser refused nodes, or the build failed.
            BuildInterruptedError: The build of this thread (`building.current`) was stopped.
        """
        trt = self.module()
        with self._build_lock:  # builders share the logger: one at a time keeps each one's words apart
            mark = self.mark()
            what = f"{self.full_name} cannot build {label}"
            try:
                builder = trt.Builder(self.logger)
            except Exception as error:  # the bindings turn a null pointer into a TypeError or RuntimeError
                raise _error(what, f"{error} ({self.words(mark)})") from error
            network = builder.create_network(self.strongly_typed())
            parser = trt.OnnxParser(network, self.logger)
            if not parser.parse(model):
                raise _error(what, _parser_words(parser) or self.words(mark))
            config = builder.create_builder_config()
            if workspace_bytes:
                config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
            if self.detailed and hasattr(trt, "ProfilingVerbosity"):
                config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
            self._target(config, compute_capabilities)
            if refittable:
                config.set_flag(trt.BuilderFlag.REFIT)
            if timings is not None:
                timings.attach(config)
            if profile:
                self._add_profile(builder, network, config, profile, what)
            # Names and order are taken from the network: the engine may drop or reorder them.
            inputs = tuple(_spec(network.get_input(i), label, bool(profile)) for i in range(network.num_inputs))
            outputs = tuple(_spec(network.get_output(i), label, bool(profile)) for i in range(network.num_outputs))
            build = trt_progress.attach(trt, config)
            data = builder.build_serialized_network(network, config)
            if build is not None and build.is_stopped():
                raise building.interruption(label)  # also where it had passed its last step: the user wants out
            if data is None:
                raise _error(what, self.words(mark))
            if timings is not None:
                timings.keep()
            return Plan(bytes(data), inputs, outputs, outline(model) if refittable else None)

    def _add_profile(
        self, builder: Any, network: Any, config: Any, profile: Sequence[Sequence[Sequence[int]]], what: str
    ) -> None:
        """Gives the network the shapes to tune for, and the range of each input that varies.

        Kernels for any shape are slower, by half for a ResNet-50 at batch 8. So the shapes to tune for are a profile of
        their own, which contexts of just these shapes take; both share the weights.
        """
        varying = [
            (network.get_input(i).name, tuple(tuple(shape) for shape in shapes))
            for i, shapes in enumerate(profile)
            if any(size < 0 for size in network.get_input(i).shape)
        ]
        mark = self.mark()
        for only_tuned in (True, False):
            made = builder.create_optimization_profile()
            for name, (smallest, tuned, largest) in varying:
                made.set_shape(name, *((tuned,) * 3 if only_tuned else (smallest, tuned, largest)))
            if config.add_optimization_profile(made) < 0:
                raise _error(what, f"its optimization profile is refused ({self.words(mark)})")

    def refused_nodes(self, model: bytes) -> dict[str, str]:
        """Returns the nodes of the serialized ONNX `model` that the parser refuses, by name, with its reasons.

        Raises:
            EngineError: The library cannot be asked.
        """
        import onnx

        trt = self.module()
        with self._build_lock:
            builder = trt.Builder(self.logger)
            network = builder.create_network(self.strongly_typed())  # which the parser does not keep alive
            parser = trt.OnnxParser(network, self.logger)
            if not hasattr(parser, "supports_model_v2") or parser.supports_model_v2(model):
                return {}
            words: dict[str, str] = {}
            for index in range(parser.num_errors):
                error = parser.get_error(index)
                words.setdefault(_ask(error, "node_name"), " ".join(error.desc().split()))
            # It lists the pieces that it would take; a piece says "not supported" when it is not the whole model.
            taken = {n for index in range(parser.num_subgraphs) for n in parser.get_subgraph_nodes(index)}
        refused = [node for n, node in enumerate(onnx.load_from_string(model).graph.node) if n not in taken]
        return {
            node.name: f"its parser does not take ONNX operator {node.op_type}: {words.get(node.name, 'no words')}"
            for node in refused
        }

    def build_probe(self, compute_capabilities: Sequence[str] = ()) -> bytes:
        """Returns the serialized engine of the smallest network, to ask a GPU whether it is accepted.

        Raises:
            EngineError: The build failed.
        """
        trt = self.module()
        with self._build_lock:
            mark = self.mark()
            try:
                builder = trt.Builder(self.logger)
                network = builder.create_network(self.strongly_typed())
                data = network.add_input("x", trt.DataType.FLOAT, (1, 8))
                result = network.add_activation(data, trt.ActivationType.RELU).get_output(0)
                network.mark_output(result)
                config = builder.create_builder_config()
                self._target(config, compute_capabilities)
                plan = builder.build_serialized_network(network, config)
            except Exception as error:
                raise EngineError(f"{error} ({self.words(mark)})") from error
            if plan is None:
                raise EngineError(self.words(mark))
            return bytes(plan)

    def _target(self, config: Any, compute_capabilities: Sequence[str]) -> None:
        """Sets the GPUs to build for.

        Raises:
            EngineError: The library does not know one of them, or cannot build for another GPU at all.
        """
        if not compute_capabilities:
            return
        known = getattr(self.module(), "ComputeCapability", None)
        if known is not None:
            config.num_compute_capabilities = len(compute_capabilities)
        for index, text in enumerate(compute_capabilities):
            value = getattr(known, "SM" + text.replace(".", ""), None)
            if value is None or not config.set_compute_capability(value, index):
                members = [n for n in getattr(known, "__members__", ()) if n.startswith("SM")]
                targets = ", ".join(f"{n[2:-1]}.{n[-1]}" for n in members)
                raise EngineError(
                    message(
                        f"{self.full_name} cannot build for compute capability {text}",
                        required=f"one of {targets}" if targets else "none: it builds for the GPU it runs on",
                    )
                )

    def load(self, plan: bytes, what: str) -> tuple[Any, Any]:
        """Returns the runtime and the engine of `plan`, on the device that is current.

        Raises:
            EngineError: The library refused the engine or the GPU.
        """
        trt = self.module()
        mark = self.mark()
        runtime = engine = None
        try:
            runtime = trt.Runtime(self.logger)
            engine = runtime.deserialize_cuda_engine(plan)
        except Exception as error:
            raise _failure(what, f"{error} ({self.words(mark)})") from error
        if engine is None:
            words = self.words(mark)
            raise _failure(what, words if _lacks_memory(words) else words + self._diagnostics(trt, runtime, plan))
        return runtime, engine

    def try_out(self, plan: bytes) -> None:
        """Loads `plan` on the device that is current, makes an execution context, and drops both.

        Raises:
            EngineError: One of the two failed.
        """
        runtime = engine = context = None
        try:
            runtime, engine = self.load(plan, "loading an engine of one node")
            context = self.context(engine, "making an execution context for an engine of one node")
        finally:
            # In this order, and now: a traceback would keep them until another device is current.
            del context, engine, runtime

    @staticmethod
    def _diagnostics(trt: Any, runtime: Any, plan: bytes) -> str:
        """Returns why TensorRT-RTX calls an engine invalid on the current GPU, where it can say so."""
        try:
            _, bits = runtime.get_engine_validity(plan[: runtime.engine_header_size])
            members = trt.EngineInvalidityDiagnostics.__members__
            names = [name for name, value in members.items() if int(bits) & int(value)]
        except Exception:  # an explanation of an error must not raise another one
            return ""
        return f" ({', '.join(names)})" if names else ""

    def context(
        self,
        engine: Any,
        what: str,
        config: Optional[Any] = None,
        shapes: Optional[Mapping[str, Sequence[int]]] = None,
    ) -> Any:
        """Returns a new execution context of `engine`, made with a runtime config where one is given.

        Args:
            engine: The engine.
            what: The beginning of a message.
            config: The runtime config, for this context alone.
            shapes: The shape of each input, by name, of an engine that was built for a range of them.

        Raises:
            EngineError: It cannot be made, for lack of memory for instance.
        """
        mark = self.mark()
        try:
            if shapes is not None:
                config = self._eager_config(engine, config)
            context = engine.create_execution_context(*([] if config is None else [config]))
            if context is not None:
                self._choose_profile(engine, context, shapes or {})
                for name, shape in (shapes or {}).items():
                    if not context.set_input_shape(name, tuple(shape)):
                        raise EngineError(f"input '{name}' of shape {tuple(shape)}")
        except Exception as error:
            raise _failure(what, f"{error} ({self.words(mark)})") from error
        if context is None:
            raise _failure(what, self.words(mark))
        return context

    @staticmethod
    def _choose_profile(engine: Any, context: Any, shapes: Mapping[str, Sequence[int]]) -> None:
        """Takes the first of the engine's profiles that the shapes lie in; a context begins with the first of all.

        Raises:
            EngineError: The context refuses it.
        """
        for index in range(1, getattr(engine, "num_optimization_profiles", 1) if shapes else 1):
            ranges = {name: engine.get_tensor_profile_shape(name, index - 1) for name in shapes}
            fits = all(
                all(low <= size <= high for low, size, high in zip(ranges[name][0], shape, ranges[name][2]))
                for name, shape in shapes.items()
            )
            if fits:
                return
            if not context.set_optimization_profile_async(index, 0):
                raise EngineError(f"optimization profile {index}")

    def _eager_config(self, engine: Any, config: Optional[Any]) -> Optional[Any]:
        """Returns the runtime config of a context whose kernels are made for its shapes, where the library asks.

        TensorRT-RTX starts with kernels for any shape and makes better ones in the background. A captured run would
        keep the first ones, and a context here has one set of shapes for life: it waits for its own kernels.
        """
        strategy = getattr(self.module(), "DynamicShapesKernelSpecializationStrategy", None)
        if strategy is None or not hasattr(engine, "create_runtime_config"):
            return config
        if config is None:
            config = engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        return config


FREE_MEMORY = "free memory on the GPU: nvidia-smi lists who holds it"
"""The next step where a GPU is full."""


def _lacks_memory(words: str) -> bool:
    # 2 is CUDA_ERROR_OUT_OF_MEMORY; a kernel that does not fit is told by that number alone.
    return re.search(r"out ?of ?memory|CUDA error 2\b", words, re.IGNORECASE) is not None


def _failure(what: str, words: str) -> EngineError:
    """Returns the error for what the library did not make of an engine on a GPU."""
    if not _lacks_memory(words):
        return EngineError(message(what, found=words))
    return DeviceMemoryError(message(what, found=words, next_step=FREE_MEMORY))


_libraries: dict[str, Library] = {}


def library(module: str) -> Library:
    """Returns the process's one Library for a bindings module."""
    return _libraries.setdefault(module, Library(module))


def numpy_dtype(trt_dtype: Any) -> str:
    """Returns NumPy's name of a TensorRT element type, or TensorRT's own where NumPy has none."""
    return _DTYPES.get(trt_dtype.name, str(trt_dtype.name))


def _spec(tensor: Any, label: str, is_flexible: bool) -> TensorSpec:
    shape = tuple(int(size) for size in tensor.shape)
    if not is_flexible and any(size < 0 for size in shape):
        raise EngineError(
            message(f"{label}: tensor '{tensor.name}' has no static shape", found=str(shape), required="sizes >= 0")
        )
    return TensorSpec(str(tensor.name), shape, numpy_dtype(tensor.dtype))


def _parser_words(parser: Any) -> str:
    """Returns all that the parser has to say: node, operator, code and description of each error."""
    texts = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        operator, name = _ask(error, "node_operator"), _ask(error, "node_name")
        place = f"node '{name}' ({operator})" if operator or name else "the model"
        code = str(error.code()).rpartition(".")[2]
        texts.append(f"{place}: {' '.join(error.desc().split())} [{code}, {error.func()}:{error.line()}]")
    return "; ".join(texts)


def _ask(error: Any, attribute: str) -> str:
    method = getattr(error, attribute, None)  # TensorRT 8 has none of these
    return str(method()) if method is not None else ""


def _error(what: str, found: str) -> EngineError:
    return EngineError(
        message(
            what,
            found=found,
            next_step="leave the node to MXNet with MXNET_TENSORRT_EXCLUDE_NODES=<its name> or "
            "MXNET_TENSORRT_EXCLUDE_OPS, or set MXNET_TENSORRT_ENGINE=onnxruntime",
        )
    )
