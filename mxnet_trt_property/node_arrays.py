"""What a TensorRT node's session reads of the node's arrays: inputs, and weights live or frozen.

Everything works on the arrays' memory, as C++ hands it over for the length of a forward: MXNet's own calls would wait
for the thread that makes them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from mxnet_trt_property import cuda_driver, freezing, programs, subgraph
from mxnet_trt_property.convert import ConvertedModel
from mxnet_trt_property.engines.registry import Buffer, Device


class NodeArrays:
    """The inputs of a node by what they are to its subgraph.

    Attributes:
        roles: The role of each input of the node (`native.INPUT`, ...).
        input_positions: Where the model's inputs are among the node's.
        inputs: Position, shape and dtype of each of these.
    """

    def __init__(self, graph: subgraph.Subgraph, frozen: freezing.Restored, device: Device) -> None:
        """Takes the subgraph, which of its variables are inputs of the node, and where the arrays lie."""
        self._graph = graph
        self._device = device
        node_input = {variable: i for i, variable in enumerate(frozen.positions)}
        self.roles = tuple(graph.roles[variable] for variable in frozen.positions)
        self.input_positions = tuple(node_input[variable] for variable in graph.input_positions)
        self.inputs = [(i, port.shape, port.dtype) for i, port in zip(self.input_positions, graph.model.inputs)]
        weights = graph.weight_positions.items()
        self._weights = {w: node_input[variable] for w, variable in weights if variable in node_input}
        self._frozen = {w: frozen.numbers[variable] for w, variable in weights if variable in frozen.numbers}
        self._store = frozen.store

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights that lie in arrays of MXNet's."""
        return sum(self._graph.weight_bytes[w] for w in self._weights)

    @property
    def frozen_bytes(self) -> int:
        """Bytes of the weights that lie in a file."""
        return sum(self._graph.weight_bytes[w] for w in self._frozen)

    def digests(self, tensors: Any, stream: int) -> dict[int, bytes]:
        """Returns a digest of each weight's values, by its number.

        Args:
            tensors: MxtrtTensor array of the node's inputs.
            stream: MXNet's CUDA stream for arrays on a GPU, else 0.
        """
        found = {w: programs.digest(self._read(tensors[i], stream)) for w, i in self._weights.items()}
        if self._store is not None:
            found.update({w: self._store.digest(number) for w, number in self._frozen.items()})
        return found

    def ordered(self, digests: Mapping[int, bytes]) -> tuple[bytes, ...]:
        """Returns digests in the order of the model's weights."""
        return tuple(digests[w] for w in self._graph.weight_positions)

    def serialize(self, converted: ConvertedModel, tensors: Any, stream: int) -> bytes:
        """Returns an ONNX model of the subgraph with the weights of this moment; arguments as in `digests`."""
        values = {w: self._read(tensors[i], stream) for w, i in self._weights.items()}
        if self._store is not None:
            values.update({w: self._store.array(number) for w, number in self._frozen.items()})
        return converted.serialize(values)

    def feed(self, tensors: Any, stream: int) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the inputs of this forward by their ONNX names; arguments as in `digests`."""
        arrays = (self._read(tensors[i], stream).reshape(shape) for i, shape, _ in self.inputs)
        return {port.name: array for port, array in zip(self._graph.model.inputs, arrays)}

    def drop_pages(self) -> None:
        """Gives memory back into which frozen weights were read."""
        if self._store is not None:
            self._store.drop_pages()

    def _read(self, tensor: Any, stream: int) -> np.ndarray[Any, Any]:
        """Returns an array's values: a view of host memory, or a copy from the GPU made in the stream's order."""
        buffer = buffer_of(tensor)
        if not tensor.on_gpu:
            return _view(buffer)
        values = np.empty(buffer.shape, buffer.dtype)
        driver = cuda_driver.default()
        with driver.on_device(self._device.gpu_index):
            driver.copy_to_host(values.ctypes.data, buffer.address, values.nbytes, stream)
            driver.synchronize(stream)
        return values


def buffer_of(tensor: Any) -> Buffer:
    """Returns what an engine is given of an MxtrtTensor."""
    shape = tuple(tensor.shape[d] for d in range(tensor.ndim))
    return Buffer(tensor.data or 0, shape, subgraph.DTYPES[tensor.dtype])


def _view(buffer: Buffer) -> np.ndarray[Any, Any]:
    """Returns an array over memory that MXNet owns and keeps for the length of the forward."""
    count = int(np.prod(buffer.shape, dtype=np.int64)) * buffer.dtype.itemsize
    if count == 0:
        return np.empty(buffer.shape, buffer.dtype)
    memory = memoryview((ctypes.c_char * count).from_address(buffer.address))
    found: np.ndarray[Any, Any] = np.frombuffer(memory, dtype=buffer.dtype)
    return found.reshape(buffer.shape)
