"""ONNX Runtime's optimized model as the cache keeps it: the graph apart from the weights.

ONNX Runtime writes the graph to one file and large weights to another, and maps weights that lie in a file instead of
copying them. In the cache both are parts of one file, so that one checksum covers them; where the weights lie is
written into the graph when it is read, since only then the file is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxnet_trt_property.cache.build import Packed
from mxnet_trt_property.cache.entry import Entry
from mxnet_trt_property.errors import TensorRTPropertyError

if TYPE_CHECKING:
    import onnx

FOLDER_OPTION = "session.model_external_initializers_file_folder_path"
"""Says where the weights of a model lie that is given as bytes. Unknown options are ignored by versions without it."""

_MODEL = "model.onnx"
_WEIGHTS = "weights"
_SMALLEST = 1024  # bytes of a weight that is worth a place of its own


class PackingError(TensorRTPropertyError):
    """A model that ONNX Runtime optimized is not whole, or not as it writes them."""


def save_to(folder: Path, settings: Any) -> None:
    """Makes a session with these options write its optimized model into a folder."""
    settings.optimized_model_filepath = str(folder / _MODEL)
    option = "session.optimized_model_external_initializers_"
    settings.add_session_config_entry(option + "file_name", _WEIGHTS)
    settings.add_session_config_entry(option + "min_size_in_bytes", str(_SMALLEST))


def pack(folder: Path) -> Packed:
    """Returns what a session wrote.

    Raises:
        PackingError: It is not whole: ONNX Runtime does not tell of a disk that is full.
    """
    weights = folder / _WEIGHTS
    try:
        head = (folder / _MODEL).read_bytes()
        size = weights.stat().st_size if weights.exists() else 0
        for tensor in _external(_parse(head).graph):
            place = {item.key: item.value for item in tensor.external_data}
            end = int(place.get("offset", 0)) + int(place["length"])
            if place["location"] != _WEIGHTS or end > size:
                raise PackingError(
                    f"weight '{tensor.name}' ends at {end} of {place['location']}, which has {size} bytes"
                )
    except (OSError, KeyError, ValueError) as error:
        raise PackingError(f"the optimized model cannot be read: {error}") from error
    return Packed({"weights": size}, head, weights if size else b"")


def model_of(packed: Entry) -> bytes:
    """Returns the graph with the places of its weights in the entry's file.

    Raises:
        PackingError: The entry is not what `pack` makes.
    """
    try:
        model = _parse(packed.head)
        for tensor in _external(model.graph):
            place = {item.key: item.value for item in tensor.external_data}
            offset, length = int(place.get("offset", 0)), int(place["length"])
            if offset < 0 or length < 0 or offset + length > packed.body_bytes:
                raise PackingError(f"weight '{tensor.name}' ends at {offset + length} of {packed.body_bytes} bytes")
            del tensor.external_data[:]
            values = {"location": packed.path.name, "offset": packed.body_offset + offset, "length": length}
            for key, value in values.items():
                tensor.external_data.add(key=key, value=str(value))
    except (KeyError, ValueError) as error:
        raise PackingError(f"the optimized model cannot be read: {type(error).__name__}: {error}") from error
    result: bytes = model.SerializeToString()
    return result


def _parse(data: bytes) -> onnx.ModelProto:
    import onnx

    try:
        return onnx.load_from_string(data)
    except Exception as error:  # protobuf's own types
        raise PackingError(f"the optimized model cannot be read: {error}") from error


def _external(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yields the tensors of a graph, and of the graphs inside, whose values lie in another file."""
    import onnx

    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor
    for node in graph.node:
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    yield tensor
            for inner in (*([attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else ()), *attribute.graphs):
                yield from _external(inner)
