"""A bindings module with TensorRT's API over ONNX Runtime, for the code around the library; needs no GPU.

"Device" addresses are host addresses, as the fake CUDA driver of the tests hands them out. The engine drops inputs
that no node reads and lists its tensors in reverse order, as TensorRT may.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import hashlib
import json
import sys
import types
from typing import Any, Optional

import numpy as np
import onnx
import onnxruntime


class Severity(enum.IntEnum):
    """Levels of messages."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


DataType: Any = enum.IntEnum(
    "DataType", {"FLOAT": 0, "HALF": 1, "INT8": 2, "INT32": 3, "BOOL": 4, "UINT8": 5, "INT64": 8}
)
TensorLocation: Any = enum.IntEnum("TensorLocation", {"DEVICE": 0, "HOST": 1})
ActivationType = enum.IntEnum("ActivationType", {"RELU": 0})
MemoryPoolType = enum.IntEnum("MemoryPoolType", {"WORKSPACE": 0})
BuilderFlag = enum.IntEnum("BuilderFlag", {"REFIT": 2, "STRIP_PLAN": 13})
NetworkDefinitionCreationFlag = enum.IntEnum(
    "NetworkDefinitionCreationFlag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
)
# As the real parser does, float64 quietly becomes float32.
_TYPES = {1: "FLOAT", 11: "FLOAT", 10: "HALF", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 2: "UINT8"}
_NUMPY = {"FLOAT": "f4", "HALF": "f2", "INT8": "i1", "INT32": "i4", "INT64": "i8", "BOOL": "?", "UINT8": "u1"}


class ILogger:
    """Receives messages."""

    Severity = Severity


class IProfiler:
    """Receives the times of layers."""


ProfilingVerbosity: Any = enum.IntEnum("ProfilingVerbosity", {"LAYER_NAMES_ONLY": 0, "DETAILED": 2, "NONE": 1})
LayerInformationFormat: Any = enum.IntEnum("LayerInformationFormat", {"ONELINE": 0, "JSON": 1})


class State:
    """What tests set and read."""

    refuses_gpu = False
    enqueue_fails = False
    build_fails = False
    no_context = False  # for lack of memory
    cannot_build_refittable = False
    refit_fails = False  # having changed half of the weights
    hidden_weights: tuple[str, ...] = ()  # which a refittable engine has folded into something else
    builds = 0
    refits = 0
    misplaced = 0  # contexts and engines that were freed while another device than theirs, or none, was current
    refuses_profiles = False
    profiles_taken: list[int] = []
    left_behind = 0  # of the fake driver's allocations and streams, on a GPU that is lost
    executions = 0
    live_contexts = 0
    plans = 0  # that were built, the probes among them
    timed = 0  # kernels whose time was taken
    compiled = 0  # kernels of TensorRT-RTX
    refuses_kernels = False
    flags: Optional[int] = None
    workspace: Optional[int] = None
    device: Any = None  # fake_current_device of the fake driver
    record: Any = None  # fake_record of the fake driver: true where it kept the work for a graph


def _array(address: int, shape: tuple[int, ...], kind: str) -> Any:
    dtype = np.dtype(_NUMPY[kind])
    count = int(np.prod(shape, dtype=int))
    if count == 0:
        return np.zeros(shape, dtype)
    memory: Any = (ctypes.c_byte * (count * dtype.itemsize)).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape)


class _Tensor:
    def __init__(self, value: Any) -> None:
        self.name = value.name
        self.shape = tuple(-1 if d.dim_param else d.dim_value for d in value.type.tensor_type.shape.dim)
        self.dtype = DataType[_TYPES[value.type.tensor_type.elem_type]]


class _Network:
    def __init__(self) -> None:
        self.model: Any = None

    num_inputs = property(lambda self: len(self.model.graph.input))
    num_outputs = property(lambda self: len(self.model.graph.output))

    def get_input(self, index: int) -> _Tensor:
        return _Tensor(self.model.graph.input[index])

    def get_output(self, index: int) -> _Tensor:
        return _Tensor(self.model.graph.output[index])

    def add_input(self, name: str, dtype: Any, shape: tuple[int, ...]) -> Any:
        info = onnx.helper.make_tensor_value_info
        node = onnx.helper.make_node("Relu", [name], ["y"])
        graph = onnx.helper.make_graph([node], "probe", [info(name, 1, shape)], [info("y", 1, shape)])
        opsets = [onnx.helper.make_opsetid("", 17)]
        self.model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def add_activation(self, data: Any, kind: Any) -> Any:
        return types.SimpleNamespace(get_output=lambda index: None)

    def mark_output(self, tensor: Any) -> None:
        pass


class OnnxParser:
    """Parses with the onnx package."""

    num_errors = 0

    def __init__(self, network: _Network, logger: Any) -> None:
        self._network = network

    def parse(self, model: bytes) -> bool:
        self._network.model = onnx.load_from_string(model)
        return True


class IProgressMonitor:
    """Is told how far a build is."""


class _Bytes:
    """What the library keeps between processes: one mark for each thing in it."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data

    def add(self, what: bytes) -> bool:
        """Adds a thing; returns whether it was new."""
        mark = hashlib.sha256(what).digest()
        new = mark not in self.data
        self.data += mark if new else b""
        return new


class IRuntimeCache(_Bytes):
    """Kernels, as TensorRT-RTX keeps them."""

    def deserialize(self, data: Any) -> bool:
        if State.refuses_kernels or len(data) % 32:
            return False
        self.data = bytes(data)
        return True


class _RuntimeConfig:
    cache: Optional[IRuntimeCache] = None

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self.cache = cache
        return True


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, smallest: Any, tuned: Any, largest: Any) -> None:
        self.shapes[name] = [smallest, tuned, largest]


class _Config:
    progress_monitor: Any = None
    timings: Optional[_Bytes] = None

    def __init__(self) -> None:
        self.flags: set[Any] = set()
        self.profiles: list[_Profile] = []

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_memory_pool_limit(self, kind: Any, value: int) -> None:
        State.workspace = value

    def create_timing_cache(self, data: Any) -> _Bytes:
        return _Bytes(bytes(data))

    def set_timing_cache(self, cache: _Bytes, ignore_mismatch: bool) -> bool:
        self.timings = cache
        return True


class Builder:
    """Serializes the ONNX model itself."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def create_network(self, flags: int) -> _Network:
        State.flags = flags
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def build_serialized_network(self, network: _Network, config: _Config) -> Optional[bytes]:
        State.builds += 1
        State.plans += 1
        if config is not None and config.timings is not None:
            State.timed += config.timings.add(b"the only kernel")
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Building", None, 4)
            if not all(monitor.step_complete("Building", step) for step in range(4)):
                return None
            monitor.phase_finish("Building")
        refittable = BuilderFlag.REFIT in config.flags
        if State.build_fails or (refittable and State.cannot_build_refittable):
            self._logger.log(Severity.ERROR, "the fake builder was told to fail")
            return None
        varying = [v.name for v in network.model.graph.input if -1 in _Tensor(v).shape]
        shapes = [profile.shapes for profile in config.profiles] or [{}]
        if (State.refuses_profiles and varying) or any(set(varying) != set(s) for s in shapes):
            self._logger.log(Severity.ERROR, "an input of unknown size has no optimization profile")
            return None
        onnx.helper.set_model_props(network.model, {"profiles": json.dumps(shapes)})
        network.model.doc_string = "refittable" if refittable else ""
        return bytes(network.model.SerializeToString())


_Work = ctypes.CFUNCTYPE(None)


def _note_device(device: int) -> None:
    if State.device is not None and State.device() != device:
        State.misplaced += 1


def _compute(engine: Any, shapes: dict[str, Any], addresses: dict[str, int]) -> None:
    arrays = {n: _array(a, shapes[n], engine.tensors[n].dtype.name) for n, a in addresses.items()}
    feeds = {value.name: arrays.get(value.name) for value in engine.session.get_inputs()}
    for value in engine.session.get_inputs():
        if feeds[value.name] is None:  # dropped by the engine, but ONNX Runtime wants a value
            feeds[value.name] = np.zeros(value.shape, np.float32)
    names = [value.name for value in engine.session.get_outputs()]
    for name, result in zip(names, engine.session.run(names, feeds)):
        arrays[name][...] = result
    State.executions += 1


class _Context:
    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self.profiler: Any = None
        self.profile = 0
        self._shapes = {name: tensor.shape for name, tensor in engine.tensors.items()}
        self._captured: list[Any] = []  # functions that the fake driver calls when it launches a graph
        State.live_contexts += 1

    def __del__(self) -> None:
        State.live_contexts -= 1
        _note_device(self._engine.device)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        State.profiles_taken.append(index)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        own = self._engine.tensors[name].shape
        low, _, high = self._engine.get_tensor_profile_shape(name, self.profile)
        if len(own) != len(shape) or not all(a <= n <= b for a, n, b in zip(low, shape, high)):
            self._engine.logger.log(Severity.ERROR, f"{name} {shape} is outside of the profile")
            return False
        self._shapes[name] = tuple(shape)
        model = onnx.ModelProto()
        model.CopyFrom(self._engine.model)
        graph = model.graph
        for value in graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim, self._shapes.get(value.name, ())):
                dim.dim_value = size
        for value in graph.output:
            for dim, size in zip(value.type.tensor_type.shape.dim, self._engine.tensors[value.name].shape):
                if size < 0:
                    dim.Clear()
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        self._shapes.update({v.name: _Tensor(v).shape for v in inferred.graph.output})
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        if address == 0 or address % 256:
            self._engine.logger.log(Severity.ERROR, f"address {address} of {name} is not aligned")
            return False
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if State.device is not None and State.device() != self._engine.device:
            self._engine.logger.log(Severity.ERROR, "the engine was loaded on another device")
            return False
        if State.enqueue_fails:
            self._engine.logger.log(Severity.ERROR, "the fake engine was told to fail")
            return False
        addresses = dict(self._addresses)  # a captured run keeps those of its capture
        for number, _ in enumerate(self._engine.nodes if self.profiler is not None else ()):
            self.profiler.report_layer_time(f"__fused{number}", 0.25)
        # No reference to the context: no cycle.
        run = functools.partial(_compute, self._engine, self._shapes, addresses)
        work = _Work(run)
        if State.record is not None and State.record(ctypes.c_void_p(stream), work):
            self._captured.append(work)
        else:
            run()
        return True


class _Engine:
    def __init__(self, plan: bytes, logger: Any) -> None:
        self.logger = logger
        self.device = State.device() if State.device is not None else 0
        self.model = onnx.load_from_string(plan)
        self.refittable = self.model.doc_string == "refittable"
        self._plan = plan
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.profiles = [json.loads(p.value) for p in self.model.metadata_props][0]
        self.num_optimization_profiles = len(self.profiles)
        graph = self.model.graph
        read = {name for node in graph.node for name in node.input}
        values = [v for v in graph.input if v.name in read] + list(graph.output)
        self.tensors = {value.name: _Tensor(value) for value in values}
        self.nodes = [node.name for node in graph.node]
        self._names = list(self.tensors)[::-1]
        self.num_io_tensors = len(self._names)

    def __del__(self) -> None:
        _note_device(self.device)

    def get_tensor_name(self, index: int) -> str:
        return str(self._names[index])

    def get_tensor_dtype(self, name: str) -> Any:
        return self.tensors[name].dtype

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        own = self.tensors[name].shape
        return [tuple(shape) for shape in self.profiles[index].get(name, [own] * 3)]

    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation.DEVICE

    def create_runtime_config(self) -> _RuntimeConfig:
        return _RuntimeConfig()

    def create_execution_context(self, config: Optional[_RuntimeConfig] = None) -> Optional[_Context]:
        if State.no_context:
            self.logger.log(Severity.ERROR, "out of memory")
            return None
        cache = None if config is None else config.cache
        State.compiled += (cache or IRuntimeCache()).add(self._plan)
        return _Context(self)

    def create_engine_inspector(self) -> Any:
        layers = [
            {"Name": f"__fused{number}", "LayerType": "kgen", "Metadata": f"[ONNX Layer: {name}]"}
            for number, name in enumerate(self.nodes)
        ]
        return types.SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": layers}))


class Runtime:
    """Loads what the Builder serialized, unless told to refuse the GPU."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Optional[_Engine]:
        if State.refuses_gpu:
            self._logger.log(Severity.ERROR, "this GPU architecture is not supported")
            return None
        return _Engine(plan, self._logger)


def _merged(graph: Any) -> set[str]:
    """Returns the parameters of batch normalizations, which the parser merges into a scale and a shift each."""
    return {name for node in graph.node if node.op_type == "BatchNormalization" for name in node.input[1:]}


class Refitter:
    """Changes the initializers of an engine's model."""

    def __init__(self, engine: _Engine, logger: Any) -> None:
        if not engine.refittable:
            raise TypeError("the engine is not refittable")
        self.engine = engine
        self.given: dict[str, Any] = {}

    def get_all_weights(self) -> list[str]:
        graph = self.engine.model.graph
        norms = sum(node.op_type == "BatchNormalization" for node in graph.node)
        hidden = {*_merged(graph), *State.hidden_weights}
        names = [t.name for t in graph.initializer if t.dims and t.data_type in (1, 10) and t.name not in hidden]
        return names + [f"merged{i}" for i in range(2 * norms)]

    def get_missing_weights(self) -> list[str]:
        return [] if self.given else ["everything"]

    def refit_cuda_engine(self) -> bool:
        State.refits += 1
        graph = self.engine.model.graph
        changed = {*self.get_all_weights(), *_merged(graph)}
        names = [t.name for t in graph.initializer if t.name in changed]
        for tensor in graph.initializer:
            if tensor.name in (names[: len(names) // 2] if State.refit_fails else names):
                tensor.CopyFrom(self.given[tensor.name])
        plan = self.engine.model.SerializeToString()
        self.engine.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        if State.refit_fails:
            self.engine.logger.log(Severity.ERROR, "the fake refitter was told to fail")
        return not State.refit_fails


class OnnxParserRefitter:
    """Reads the new weights with the onnx package."""

    num_errors = 0

    def __init__(self, refitter: Refitter, logger: Any) -> None:
        self._refitter = refitter

    def refit_from_bytes(self, model: bytes) -> bool:
        self._refitter.given = {t.name: t for t in onnx.load_from_string(model).graph.initializer}
        return True


__version__ = "99.0"


def install(name: str = "fake_tensorrt_bindings_module") -> str:
    """Makes this module importable as `name`, with fresh state, and returns the name."""
    sys.modules[name] = sys.modules[__name__]
    State.refuses_gpu = State.enqueue_fails = State.build_fails = State.no_context = False
    State.cannot_build_refittable = State.refit_fails = False
    State.hidden_weights = ()
    State.executions = State.builds = State.refits = State.misplaced = 0
    State.refuses_kernels = State.refuses_profiles = False
    State.profiles_taken.clear()
    State.plans = State.timed = State.compiled = 0
    State.flags = State.workspace = None
    return name
