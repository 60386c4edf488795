"""Weights that belong to a TensorRT node instead of to the program: kept in an unlinked temporary file.

The engine holds its own copy once it is built, so a second one in memory would be wasted. It is still needed when the
node is bound to other shapes, and when the symbol is saved: pages of a file can be dropped and come back.

A store's token is a digest of its contents. Symbols carry the token in an attribute, and MXNet copies attributes as it
likes, so a store lives as long as the process; freezing the same weights again gives the same store.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mmap
import tempfile
import threading
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mxnet_trt_property import forks, programs
from mxnet_trt_property.errors import FrozenWeightsError, message

EMBEDDED = "base64:"
"""How the text of a whole store begins; a token does not begin so."""

_ALIGNMENT = 64


class _Place(NamedTuple):
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    digest: bytes


class Store:
    """The frozen weights of one TensorRT node, by number."""

    def __init__(self, arrays: Iterable[np.ndarray[Any, Any]]) -> None:
        """Copies the arrays, one after the other, into a temporary file.

        Raises:
            FrozenWeightsError: The file cannot be written.
        """
        self._places: list[_Place] = []
        self.nbytes = 0
        token = hashlib.blake2b(digest_size=16)
        try:
            with tempfile.TemporaryFile() as file:
                for array in arrays:
                    value = np.ascontiguousarray(array).reshape(array.shape)
                    place = _Place(self.nbytes, value.shape, value.dtype, programs.digest(value))
                    self._places.append(place)
                    token.update(repr((place.shape, place.dtype.str)).encode() + place.digest)
                    self.nbytes += file.write(value.tobytes() + bytes(-value.nbytes % _ALIGNMENT))
                file.flush()
                # The mapping keeps the file, which has no name any more.
                self._memory = mmap.mmap(file.fileno(), self.nbytes, access=mmap.ACCESS_READ) if self.nbytes else b""
        except OSError as error:
            raise FrozenWeightsError(
                message(
                    "Weights cannot be frozen: no temporary file can be written",
                    found=str(error),
                    next_step=f"make room in {tempfile.gettempdir()}, or set TMPDIR to another folder",
                )
            ) from error
        self.token = token.hexdigest()

    def __len__(self) -> int:
        return len(self._places)

    def array(self, number: int) -> np.ndarray[Any, Any]:
        """Returns one weight, read-only; a view of the file."""
        place = self._places[number]
        count = int(np.prod(place.shape, dtype=np.int64))
        flat = np.frombuffer(self._memory, place.dtype, count, place.offset) if count else np.empty(0, place.dtype)
        return flat.reshape(place.shape)

    def digest(self, number: int) -> bytes:
        """Returns the digest of one weight, as `programs.digest` computes it."""
        return self._places[number].digest

    def drop_pages(self) -> None:
        """Gives the memory back to the system until the weights are needed again."""
        if isinstance(self._memory, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED)

    def embedded(self) -> str:
        """Returns the whole store as a text, for a symbol that is saved."""
        rows = [(list(p.shape), p.dtype.str) for p in self._places]
        head = json.dumps({"token": self.token, "arrays": rows}).encode()
        body = b"".join(self.array(i).tobytes() for i in range(len(self)))
        raw = len(head).to_bytes(8, "little") + head + body
        return EMBEDDED + base64.b64encode(raw + zlib.crc32(raw).to_bytes(4, "little")).decode()


_stores: dict[str, Store] = {}
_embedded: dict[bytes, Store] = {}
_lock = threading.Lock()


@forks.in_child
def _leave_behind() -> None:
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have held it


def keep(arrays: Iterable[np.ndarray[Any, Any]]) -> Store:
    """Returns the store of these arrays; equal ones share one."""
    made = Store(arrays)
    with _lock:
        return _stores.setdefault(made.token, made)


def find(text: str, label: str) -> Store:
    """Returns the store of a token or of an embedded text.

    Raises:
        FrozenWeightsError: The token is of another process, or the text is damaged.
    """
    if text.startswith(EMBEDDED):
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        with _lock:
            found = _embedded.get(key)
        if found is None:
            found = keep(_parse(text, label))
            with _lock:
                _embedded[key] = found
        return found
    with _lock:
        known = _stores.get(text)
    if known is None:
        raise FrozenWeightsError(
            message(
                f"The frozen weights of {label} are not in this process",
                found="a symbol's text that was not written by Symbol.save or Symbol.tojson",
                next_step="save the symbol with one of them while mxnet_trt_property is loaded",
            )
        )
    return known


def _parse(text: str, label: str) -> Sequence[np.ndarray[Any, Any]]:
    try:
        raw = base64.b64decode(text[len(EMBEDDED) :], validate=True)
        if zlib.crc32(raw[:-4]).to_bytes(4, "little") != raw[-4:]:
            raise ValueError("the checksum is wrong")
        start = 8 + int.from_bytes(raw[:8], "little")
        arrays = []
        for shape, dtype in json.loads(raw[8:start])["arrays"]:
            kind = np.dtype(str(dtype))
            if kind.kind not in "fiub":
                raise ValueError(f"dtype {kind}")
            count = int(np.prod([int(n) for n in shape], dtype=np.int64))
            arrays.append(np.frombuffer(raw[:-4], kind, count, start).reshape([int(n) for n in shape]))
            start += count * kind.itemsize
        if start != len(raw) - 4:
            raise ValueError("the lengths do not fit")
        return arrays
    except (ValueError, KeyError, TypeError, UnicodeDecodeError, OverflowError) as error:
        raise FrozenWeightsError(
            message(
                f"The frozen weights of {label} cannot be read",
                found=f"{type(error).__name__}: {error}",
                next_step="save the symbol again",
            )
        ) from error
