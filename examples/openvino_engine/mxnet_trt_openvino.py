"""OpenVINO as an engine of mxnet-trt-property: MXNET_TENSORRT_ENGINE=openvino.

Written as a package of its own would be: it imports nothing of mxnet-trt-property but `mxnet_trt_property.engines`, and
that package does not know of it but for the entry point in pyproject.toml. docs/engines.md tells what each method owes.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
import onnx

from mxnet_trt_property.engines import (
    Buffer,
    Device,
    EngineError,
    Options,
    check_buffer,
    check_count,
    message,
    skip_exit_handlers,
)

MAX_BINDINGS = 8  # sets of arrays that a runner keeps bound; an executor has one

# What OpenVINO's CPU plugin computes with fewer bits than the model says, or by other rules (seen in 2026.4):
# float64 as float32; int64 as int32; integers of 8 bits saturated, where MXNet's wrap; integer divisions as floats.
_INEXACT = "OpenVINO's CPU plugin does not compute it exactly"
_MOVES = frozenset(
    "Cast Concat Expand Flatten Gather GatherElements GatherND Identity OneHot Pad Reshape Slice Split Squeeze Tile "
    "Transpose Unsqueeze Where".split()
)
_EXACT_IN_INT32 = _MOVES | frozenset("Add Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mul Sub".split())
_DIVISIONS = frozenset("Div Mod Pow".split())
_FLOAT64, _INT64 = onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64
_SMALL = {onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "uint8"}
_INT32 = onnx.TensorProto.INT32
_LARGEST_SHAPE = 1024  # bytes

_PRECISIONS = ("fp32", "fp16")
_NEXT_STEP = (
    "set MXNET_TENSORRT_EXCLUDE_NODES=<its name> to leave the node to MXNet, or MXNET_TENSORRT_ENGINE=onnxruntime"
)


class OpenVinoEngine:
    """OpenVINO's CPU plugin."""

    name = "openvino"
    runs_on = "cpu"

    def __init__(self) -> None:
        self._core: Any = None
        self._lock = threading.Lock()

    def version(self) -> str:
        """Returns OpenVINO's version, or "" where it is not installed."""
        try:
            return str(_openvino().__version__).split("-", maxsplit=1)[0]
        except EngineError:
            return ""

    def unusable(self, device: Device) -> Optional[str]:
        """Returns why OpenVINO cannot run arrays of `device`, or None."""
        if device.kind != "cpu":
            return message(
                f"OpenVINO's CPU plugin cannot work on arrays of mx.gpu({device.index})",
                next_step="use mx.cpu(), or another engine",
            )
        try:
            _openvino()
        except EngineError as error:
            return str(error)
        return None

    def refused_nodes(self, model: bytes) -> dict[str, str]:
        """Returns the nodes of the serialized ONNX `model` that OpenVINO cannot convert or not compute exactly."""
        nodes = onnx.load_from_string(model).graph.node
        refused = _inexact_nodes(model)
        try:
            self._plugin().read_model(model)
        except Exception as error:  # it raises RuntimeError and types of its own, and names operators or a node
            words = " ".join(str(error).split())
            # 2025.3 says "ONNX operations: A, B", 2026.4 "found for operations: A-17, B-17 To facilitate ...".
            listed = re.search(r"operations: ([\w.:-]+(?:, [\w.:-]+)*)", words)
            types = {re.sub(r"-\d+$", "", name) for name in listed.group(1).split(", ")} if listed else set()
            named = set(re.findall(r"Node\([^)]*\): ([^>\s]+)", words))
            for node in nodes:
                if node.op_type in types or node.name in named:
                    refused.setdefault(node.name, words)
        return refused

    def build(self, model: bytes, options: Options, device: Device, label: str) -> OpenVinoProgram:
        """Compiles the serialized ONNX `model` for the CPU, in float32 whatever this CPU could do faster.

        Raises:
            EngineError: OpenVINO refuses the model or does not compute it exactly, or the precision is not offered.
        """
        if options.precision not in _PRECISIONS:
            raise EngineError(
                message(
                    f"Engine 'openvino' cannot build {label} in this precision",
                    found=options.precision,
                    required="one of " + ", ".join(_PRECISIONS),
                    next_step="unset MXNET_TENSORRT_PRECISION",
                )
            )
        # Left to itself the plugin computes in bfloat16 or float16 on CPUs that have instructions for it.
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        threads = (
            os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
        )  # by which MXNet's users limit its threads
        if threads.isdecimal() and int(threads) > 0:
            config["INFERENCE_NUM_THREADS"] = int(threads)
        try:
            inexact = _inexact_nodes(model)  # again, for whoever has not asked `refused_nodes`
            compiled = self._plugin().compile_model(self._plugin().read_model(model), "CPU", config)
        except Exception as error:
            raise _error(f"OpenVINO {self.version()} cannot build {label}", " ".join(str(error).split())) from error
        copies = [
            result.get_friendly_name()
            for result in compiled.get_runtime_model().get_results()
            if result.input_value(0).get_node().get_type_name() == "Parameter"
        ]
        if copies:  # seen in 2025.3, not in 2026.4: such an output, and those beside it, are not written
            words = f"OpenVINO has made an output one with an input: {', '.join(copies)}"
            raise _error(f"OpenVINO {self.version()} cannot build {label}", words)
        if inexact:
            words = "; ".join(f"{node}: {reason}" for node, reason in inexact.items())
            raise _error(f"OpenVINO {self.version()} cannot build {label}", words)
        return OpenVinoProgram(compiled, model, label)

    def leave_behind(self) -> object:
        """Forgets the plugin in the child of a fork: its threads are the parent's, and its end would wait for them."""
        left, self._core = self._core, None
        self._lock = threading.Lock()  # a thread of the parent may have held it
        if left is not None:
            skip_exit_handlers()
        return left

    def _plugin(self) -> Any:
        with self._lock:
            if self._core is None:
                self._core = _openvino().Core()
            return self._core


class OpenVinoProgram:
    """A compiled model with its weights; any number of requests may run it at once."""

    def __init__(self, compiled: Any, model: bytes, label: str) -> None:
        self.size_bytes = len(model)
        self._compiled: Optional[Any] = compiled
        self._label = label
        graph = onnx.load_from_string(model).graph
        # Inputs that no node reads are not in the compiled model. A port has the names of all tensors that became one,
        # even of an output, so that names find inputs only.
        ports = {name: i for i, port in enumerate(compiled.inputs) for name in port.get_names()}
        self._inputs = [_Tensor.of(value, ports.get(value.name)) for value in graph.input]
        self._outputs = [_Tensor.of(value, i) for i, value in enumerate(graph.output)]
        used = sorted(tensor.port for tensor in self._inputs if tensor.port is not None)
        if used != list(range(len(compiled.inputs))) or len(self._outputs) != len(compiled.outputs):
            found = ", ".join(str(port.get_names()) for port in (*compiled.inputs, *compiled.outputs))
            raise _error(f"OpenVINO has made other inputs and outputs for {label} than the model has", found)

    def runner(self, device: Device) -> OpenVinoRunner:
        """Returns a new runner.

        Raises:
            EngineError: The program is closed.
        """
        if self._compiled is None:
            raise EngineError(message(f"The OpenVINO program of {self._label} is closed"))
        return OpenVinoRunner(self._compiled, self._inputs, self._outputs, self._label)

    def close(self) -> None:
        """Lets go of the compiled model; runners that exist keep it."""
        self._compiled = None


class OpenVinoRunner:
    """Runs a compiled model on the caller's arrays, in place: one infer request for each set of addresses."""

    def __init__(self, compiled: Any, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor], label: str) -> None:
        self._compiled: Optional[Any] = compiled
        self._label = label
        self._inputs = inputs
        self._outputs = outputs
        self._requests: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], stream: int) -> None:
        """Runs the model.

        Raises:
            EngineError: OpenVINO failed, in its own words, the buffers do not fit the model, or the runner is closed.
        """
        with self._lock:
            request = self._request(inputs, outputs)
            try:
                request.infer(share_outputs=True)  # lets go of the GIL, and copies nothing
            except Exception as error:
                raise _error(f"OpenVINO cannot run {self._label}", " ".join(str(error).split())) from error

    def bare(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], stream: int) -> Callable[[], None]:
        """Returns what `run` does on these arrays and nothing else: what `mxnet-trt bench` calls the limit."""
        with self._lock:
            request = self._request(inputs, outputs)

        def infer() -> None:
            request.infer(share_outputs=True)

        return infer

    def close(self) -> None:
        """Lets go of the compiled model."""
        with self._lock:
            self._compiled = None
            self._requests.clear()

    def _request(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> Any:
        """Returns the request whose tensors are these arrays."""
        if self._compiled is None:
            raise EngineError(message(f"The OpenVINO runner of {self._label} is closed"))
        key = (tuple(inputs), tuple(outputs))
        if key in self._requests:
            self._requests.move_to_end(key)
            return self._requests[key]
        check_count("inputs", self._label, len(inputs), len(self._inputs))
        check_count("outputs", self._label, len(outputs), len(self._outputs))
        request = self._compiled.create_infer_request()
        for tensors, buffers, put in (
            (self._inputs, inputs, request.set_input_tensor),
            (self._outputs, outputs, request.set_output_tensor),
        ):
            for tensor, buffer in zip(tensors, buffers):
                check_buffer(self._label, tensor.name, buffer, tensor.shape, tensor.dtype.name)
                if tensor.port is not None:
                    put(tensor.port, _openvino().Tensor(tensor.view(buffer), shared_memory=True))
        self._requests[key] = request
        if len(self._requests) > MAX_BINDINGS:
            self._requests.popitem(last=False)
        return request


class _Tensor(NamedTuple):
    """An input or an output of the ONNX model, and its number in the compiled one, or None if that does not have it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    port: Optional[int]

    @staticmethod
    def of(value: Any, port: Optional[int]) -> _Tensor:
        """Returns what a ValueInfoProto with a static shape says."""
        kind = value.type.tensor_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        return _Tensor(value.name, tuple(d.dim_value for d in kind.shape.dim), dtype, port)

    def view(self, buffer: Buffer) -> np.ndarray[Any, Any]:
        """Returns the array that `buffer` describes, in the model's shape, without copying it."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)  # an empty array may have no address
        interface = {"data": (buffer.address, False), "shape": self.shape, "typestr": self.dtype.str, "version": 3}
        return np.asarray(type("Memory", (), {"__array_interface__": interface})())


def _inexact_nodes(model: bytes) -> dict[str, str]:
    """Returns the nodes that would be converted and then give other numbers, by name with a reason.

    int64 is what ONNX has for positions and shapes, which int32 holds as well; only where MXNet's own arrays are int64,
    or a node divides, it counts.
    """
    proto = onnx.load_from_string(model)
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) > _LARGEST_SHAPE:
            tensor.ClearField("raw_data")  # weights, which inference would copy several times and reads only as shapes
    graph = onnx.shape_inference.infer_shapes(proto).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    constants = {tensor.name for tensor in graph.initializer}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    wide = {v.name for v in (*graph.input, *graph.output) if types[v.name] == _INT64}
    grows = bool(wide)
    while grows:
        before = len(wide)
        for node in graph.node:
            names = [n for n in (*node.input, *node.output) if types.get(n) == _INT64 and n not in constants]
            if wide.intersection(names):
                wide.update(names)
        grows = len(wide) > before
    return dict(_reasons(graph.node, types, wide))


def _reasons(nodes: Iterable[Any], types: Mapping[str, int], wide: set[str]) -> Iterable[tuple[str, str]]:
    for node in nodes:
        names = (*node.input, *node.output)
        found = {types.get(name) for name in names}
        small = [word for kind, word in _SMALL.items() if kind in found]
        if _FLOAT64 in found:
            yield node.name, f"{_INEXACT}: float64"
        elif wide.intersection(names):
            yield node.name, f"{_INEXACT}: int64"
        elif found & {_INT64, _INT32} and node.op_type in _DIVISIONS:
            yield node.name, f"{_INEXACT}: {node.op_type} of integers"
        elif small and node.op_type not in _MOVES:
            yield node.name, f"{_INEXACT}: {node.op_type} of {small[0]}"
        elif _INT32 in found and node.op_type not in _EXACT_IN_INT32:
            yield node.name, f"{_INEXACT}: {node.op_type} of int32"


def _openvino() -> Any:
    try:
        with warnings.catch_warnings():  # of old names inside of the package, at its import
            warnings.simplefilter("ignore")
            return importlib.import_module("openvino")
    except Exception as error:  # a broken installation raises more than ImportError
        raise EngineError(
            message(
                "OpenVINO cannot be imported",
                found=f"{type(error).__name__}: {error}",
                next_step='pip install "openvino>=2025.3,<2027"',
            )
        ) from None


def _error(what: str, words: str) -> EngineError:
    return EngineError(message(what, found=words, next_step=_NEXT_STEP))
