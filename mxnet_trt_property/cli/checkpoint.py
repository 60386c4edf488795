"""Reads a checkpoint that may be anything, for the commands.

MXNet's C++ trusts the files that it loads: it takes counts and indices in them as they are, and may crash. So what it
would follow is looked at first: the graph's indices, and in a .params file the sizes of everything. What a node's
attributes say is still MXNet's to judge.

A .params file of MXNet (little-endian): u64 0x112, u64 0, u64 number of arrays, the arrays, u64 number of names, and
for each name u64 length and its bytes. A dense array: u32 magic of its version, i32 storage type 0, u32 number of axes,
i64 sizes, i32 device type, i32 device id, i32 type flag, its values. Arrays of older versions begin with their shape.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mxnet_trt_property.errors import ConversionError, TensorRTPropertyError, message, mxnet_words
from mxnet_trt_property.graph import Graph
from mxnet_trt_property.graph import load as load_json
from mxnet_trt_property.infer import known_shape

_SYMBOL = "-symbol.json"
_LIST_MAGIC = 0x112
_DENSE_V1 = 0xF993FAC8  # no storage type
_DENSE_V2 = 0xF993FAC9
_DENSE_V3 = 0xF993FACA  # of NumPy's semantics: -1 axes mean none
_ITEM_BYTES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1, 8: 2, 9: 2, 10: 4, 11: 8, 12: 2}
_MOST_AXES = 32
_MOST_NAME_BYTES = 1 << 16
_STORAGE = {0: 0, 1: 1, 2: 2}  # storage types, with the number of arrays that a sparse one has besides its values


class CheckpointError(TensorRTPropertyError):
    """A checkpoint cannot be read."""


def prefix_of(words: str) -> str:
    """Returns the prefix that the first argument of a command names; the symbol's file may stand for it."""
    return words[: -len(_SYMBOL)] if words.endswith(_SYMBOL) else words


def load(
    words: str, epoch: int, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Any, Mapping[str, Any], Mapping[str, Any]]:
    """Returns symbol, arguments and auxiliary states of a checkpoint that can be bound with `shapes`.

    Args:
        words: The checkpoint's prefix, or the symbol's file.
        epoch: Its number.
        shapes: The shapes of its inputs, by name.

    Raises:
        CheckpointError: A file is missing, damaged or hostile, or the shapes do not fit the network.
    """
    import mxnet as mx

    prefix = prefix_of(words)
    symbol = load_symbol(Path(prefix + _SYMBOL))
    check_params(Path(f"{prefix}-{epoch:04d}.params"))
    try:
        arguments, auxiliary = mx.model.load_params(prefix, epoch)
    except (OSError, ValueError, mx.MXNetError) as error:
        raise CheckpointError(message(f"The parameters of {prefix} cannot be loaded", found=_text(error))) from error
    check_names(symbol, shapes, arguments)
    known = {name: tuple(arguments[name].shape) for name in symbol.list_arguments() if name in arguments}
    try:
        found, _, _ = symbol.infer_shape_partial(**{**known, **shapes})
    except mx.MXNetError as error:
        what = f"{prefix} cannot be bound: the shapes do not fit the network and its parameters"
        given = ", ".join(f"{name}={','.join(map(str, shape))}" for name, shape in shapes.items())
        step = "--shape NAME=N,C,H,W with what the network was made for"
        raise CheckpointError(message(what, found=f"{given}: {mxnet_words(error)}", next_step=step)) from error
    pairs = zip(symbol.list_arguments(), found or ())
    missing = [name for name, shape in pairs if name not in arguments and known_shape(shape) is None]
    if missing:
        what = f"{prefix} cannot be bound: an input has neither a shape nor a value"
        raise CheckpointError(message(what, found=", ".join(missing[:3]), next_step=f"--shape {missing[0]}=N,..."))
    return symbol, arguments, auxiliary


def check_names(symbol: Any, shapes: Mapping[str, tuple[int, ...]], arguments: Mapping[str, Any]) -> None:
    """Refuses shapes of what a network does not have.

    Args:
        symbol: The network.
        shapes: The shapes, by name.
        arguments: What has a value, by name.

    Raises:
        CheckpointError: A name is none of the network's.
    """
    names = symbol.list_arguments()
    unknown = sorted(set(shapes) - set(names))
    if unknown:
        inputs = [name for name in names if name not in arguments]
        required = "inputs of the network, such as " + ", ".join(inputs[:3])
        raise CheckpointError(message("--shape names what is not there", found=", ".join(unknown), required=required))


def load_symbol(file: Path) -> Any:
    """Returns the symbol in a file.

    Raises:
        CheckpointError: The file is missing, damaged or hostile.
    """
    import mxnet as mx

    try:
        words = file.read_text(encoding="utf-8")
        check_symbol(words)
        return mx.sym.load_json(words)
    except FileNotFoundError as error:
        required = (
            f"a checkpoint's PREFIX: PREFIX{_SYMBOL} and PREFIX-0000.params, as save_checkpoint or export write them"
        )
        raise CheckpointError(message(f"{file} cannot be loaded", found="no such file", required=required)) from error
    except (OSError, UnicodeDecodeError, ConversionError, mx.MXNetError) as error:
        raise CheckpointError(message(f"{file} cannot be loaded", found=_text(error))) from error


def check_symbol(words: str) -> None:
    """Refuses the JSON text of a symbol with an index that is none of its own.

    Raises:
        ConversionError: It is not a graph of the known form.
    """
    graph = Graph.from_json(words)
    data = load_json(words)
    lists = {"arg_nodes": range(len(graph.nodes)), "node_row_ptr": range(1 << 31)}
    for name, valid in lists.items():
        if not isinstance(data.get(name, []), list):
            raise ConversionError(message(f"The symbol's list {name} is wrong", found=repr(data[name])[:80]))
        for value in data.get(name, []):
            if not isinstance(value, int) or value not in valid:
                raise ConversionError(message(f"The symbol's list {name} is wrong", found=repr(value)[:80]))
    for value in data.get("arg_nodes", []):
        if not graph.nodes[value].is_variable:
            raise ConversionError(message("The symbol names an operator as argument", found=graph.nodes[value].name))
    for number, item in enumerate(data["nodes"]):
        controls = item.get("control_deps", [])
        if not isinstance(controls, list) or any(not isinstance(c, int) or not 0 <= c < number for c in controls):
            raise ConversionError(message(f"Node {number} of the symbol waits for what does not come before it"))


def check_params(file: Path) -> None:
    """Refuses a .params file whose sizes do not add up to its own.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    try:
        with open(file, "rb") as stream:
            _check_params(stream, os.fstat(stream.fileno()).st_size)
    except FileNotFoundError as error:
        what, others = f"The parameters {file} cannot be loaded", _epochs_beside(file)
        found = "no such file" + (f", but epoch {', '.join(others)}" if others else "")
        step = f"--epoch {others[-1]}" if others else "copy them to the symbol's folder"
        raise CheckpointError(message(what, found=found, next_step=step)) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            message(
                f"The parameters {file} cannot be loaded",
                found=str(error),
                required="a file of mx.nd.save or save_checkpoint",
                next_step="save it again, or copy it again from where it came",
            )
        ) from error


def _epochs_beside(file: Path) -> list[str]:
    """Returns the numbers of the .params files of the same checkpoint."""
    prefix = file.name.rpartition("-")[0]
    found = [re.fullmatch(re.escape(prefix) + r"-(\d+)\.params", other.name) for other in file.parent.glob("*.params")]
    return [str(number) for number in sorted(int(match.group(1)) for match in found if match)]


def _check_params(stream: BinaryIO, size: int) -> None:
    """Walks through a file without reading the values of arrays.

    Raises:
        ValueError: Something in it is wrong.
    """

    def take(form: str) -> tuple[int, ...]:
        count = struct.calcsize(form)
        data = stream.read(count)
        if len(data) < count:
            raise ValueError(f"it ends at {stream.tell()}, inside a number")
        return struct.unpack(form, data)

    def skip(count: int) -> None:
        if count > size - stream.tell():
            raise ValueError(f"{count} bytes at {stream.tell()} of {size}")
        stream.seek(count, os.SEEK_CUR)

    def shape(form: str = "<i") -> tuple[int, int]:
        """Returns the number of axes and of elements."""
        (axes,) = take(form)
        if not -1 <= axes <= _MOST_AXES:
            raise ValueError(f"an array of {axes} axes")
        sizes = take(f"<{max(axes, 0)}q")
        if any(n < 0 for n in sizes):
            raise ValueError(f"an array of shape {sizes}")
        return axes, math.prod(sizes)

    def item_bytes() -> int:
        (flag,) = take("<i")
        if flag not in _ITEM_BYTES:
            raise ValueError(f"an array of type {flag}")
        return _ITEM_BYTES[flag]

    magic, _, arrays = take("<QQQ")
    if magic != _LIST_MAGIC:
        raise ValueError(f"it begins with {magic:#x}")
    if arrays > size:
        raise ValueError(f"{arrays} arrays in {size} bytes")
    for _ in range(arrays):
        (version,) = take("<I")
        others = 0
        if version in (_DENSE_V2, _DENSE_V3):
            (storage,) = take("<i")
            if storage not in _STORAGE:
                raise ValueError(f"an array of storage type {storage}")
            others = _STORAGE[storage]
        stored = shape() if others else (0, 0)
        if version in (_DENSE_V1, _DENSE_V2, _DENSE_V3):
            axes, count = shape()
        elif version <= _MOST_AXES:
            axes, count = version, math.prod(take(f"<{version}I"))
        else:
            raise ValueError(f"an array that begins with {version:#x}")
        if axes < 0 or (axes == 0 and version != _DENSE_V3):
            continue  # one without values
        take("<ii")  # the device that it lay on
        width = item_bytes()
        beside = [(item_bytes(), shape()[1]) for _ in range(others)]
        skip(width * (stored[1] if others else count))
        for other, number in beside:
            skip(other * number)
    (names,) = take("<Q")
    if names not in (0, arrays):
        raise ValueError(f"{names} names of {arrays} arrays")
    for _ in range(names):
        (length,) = take("<Q")
        if length > _MOST_NAME_BYTES:
            raise ValueError(f"a name of {length} bytes")
        skip(length)
    if stream.tell() != size:
        raise ValueError(f"{size - stream.tell()} bytes after its end")


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, TensorRTPropertyError) else f"{type(error).__name__}: {error}"
