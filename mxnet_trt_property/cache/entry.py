"""One file of the cache: a built engine, or what an engine keeps beside it.

    magic, 8 bytes | format, u32 | meta bytes, u32 | head bytes, u64 | body bytes, u64 | key, 32 bytes
    meta (JSON) | head | zeros up to a multiple of 4096 | body | BLAKE3 of all before it, 32 bytes

Integers are little-endian. The lengths are checked against the file's own before anything is read by them, so that a
damaged header allocates nothing; the key is in the file, so that one under another's name is noticed. Nothing in a file
is code: no pickle. Nothing of a file is used before the checksum of all of it was found right. The checksum finds
damage, not malice: who may write the folder may write a right checksum (docs/caching.md).
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Optional, Union

from blake3 import blake3

from mxnet_trt_property.errors import TensorRTPropertyError

MAGIC = b"MXTRTC\r\n"  # a transfer in text mode changes it
FORMAT = 1
ALIGNMENT = 4096
KEY_BYTES = 32
META_LIMIT = 1 << 20
HEAD_LIMIT = 1 << 31

_HEADER = struct.Struct(f"<8sIIQQ{KEY_BYTES}s")
_CHECKSUM_BYTES = 32
_CHUNK = 1 << 20

Buffer = Union[bytes, bytearray, memoryview]


class EntryError(TensorRTPropertyError, ValueError):
    """A file of the cache is foreign, damaged or of another format; the text says which, without the file's name."""


@dataclass(frozen=True)
class Entry:
    """What a file holds.

    Attributes:
        meta: What describes it.
        head: Its small part.
        body: Its large part; None where it was checked and not kept.
        body_offset: Where the large part begins in the file, a multiple of `ALIGNMENT`.
        body_bytes: The length of the large part.
        path: The file.
        inode: The file's number; 0 where it came from elsewhere.
    """

    meta: Mapping[str, Any]
    head: bytes
    body: Optional[bytes]
    body_offset: int
    body_bytes: int
    path: Path
    inode: int = 0


def body_offset(meta_bytes: int, head_bytes: int) -> int:
    """Returns where the body begins."""
    return -(-(_HEADER.size + meta_bytes + head_bytes) // ALIGNMENT) * ALIGNMENT


def size_of(meta: Mapping[str, Any], head: Buffer, body: Union[Buffer, Path]) -> int:
    """Returns how many bytes `write` writes."""
    return body_offset(len(_dump(meta)), len(head)) + _length(body) + _CHECKSUM_BYTES


def write(stream: BinaryIO, key: bytes, meta: Mapping[str, Any], head: Buffer, body: Union[Buffer, Path]) -> None:
    """Writes one file.

    Args:
        stream: Where to.
        key: The entry's key, `KEY_BYTES` long.
        meta: What describes it; goes through JSON.
        head: The small part.
        body: The large part, or the file that holds it.

    Raises:
        OSError: The stream takes no more, or `body` cannot be read.
        ValueError: Meta or head are larger than a reader would accept.
    """
    text = _dump(meta)
    if len(text) > META_LIMIT or len(head) > HEAD_LIMIT or len(key) != KEY_BYTES:
        raise ValueError(f"meta of {len(text)} bytes, head of {len(head)}, key of {len(key)}")
    length = _length(body)
    checksum = blake3()

    def put(data: Buffer) -> None:
        stream.write(data)
        checksum.update(data)

    put(_HEADER.pack(MAGIC, FORMAT, len(text), len(head), length, key))
    put(text)
    put(head)
    put(bytes(body_offset(len(text), len(head)) - _HEADER.size - len(text) - len(head)))
    with open(body, "rb") if isinstance(body, Path) else io.BytesIO(body) as source:
        left = length
        while left:
            data = source.read(min(left, _CHUNK))
            if not data:
                raise OSError(f"{left} of {length} bytes are missing in the file that was to be kept")
            put(data)
            left -= len(data)
    stream.write(checksum.digest())


def read(stream: BinaryIO, size: int, key: Optional[bytes], path: Path, keep_body: bool) -> Entry:
    """Returns what a file holds.

    Args:
        stream: The file, at its beginning.
        size: Its length in bytes.
        key: The key that it must have; None takes any.
        path: The file's name, for the result.
        keep_body: Whether the body is wanted in memory; it is checked in any case.

    Raises:
        EntryError: The file is foreign, damaged or of another format or key.
        OSError: It cannot be read.
    """
    header = _exactly(stream, min(_HEADER.size, size))
    if not header.startswith(MAGIC[: len(header)]) or not header:
        raise EntryError(f"a file that begins with {header[: len(MAGIC)]!r}, which is none of the cache's")
    if len(header) < _HEADER.size:
        raise EntryError(f"{size} bytes, and the header alone has {_HEADER.size}")
    _, number, meta_bytes, head_bytes, body_bytes, found = _HEADER.unpack(header)
    if number != FORMAT:
        raise EntryError(f"format {number}, and this version reads format {FORMAT}")
    if meta_bytes > META_LIMIT or head_bytes > HEAD_LIMIT:
        raise EntryError(f"a header that tells of {meta_bytes} bytes of meta and {head_bytes} of head")
    start = body_offset(meta_bytes, head_bytes)
    if size != start + body_bytes + _CHECKSUM_BYTES:
        raise EntryError(f"{size} bytes, and {start + body_bytes + _CHECKSUM_BYTES} by its header")
    if key is not None and found != key:
        raise EntryError("the entry of another key")
    checksum = blake3(header)
    front = _exactly(stream, start - _HEADER.size)
    checksum.update(front)
    body = _read_body(stream, body_bytes, checksum, keep_body)
    if _exactly(stream, _CHECKSUM_BYTES) != checksum.digest():
        raise EntryError("contents that do not match the checksum")
    if any(front[meta_bytes + head_bytes :]):
        raise EntryError("no zeros where there should be")
    try:
        meta = json.loads(front[:meta_bytes])
    except (ValueError, RecursionError) as error:
        raise EntryError(f"a description that is no JSON ({error})") from error
    if not isinstance(meta, dict):
        raise EntryError("a description of another kind")
    return Entry(meta, front[meta_bytes : meta_bytes + head_bytes], body, start, body_bytes, path)


def _read_body(stream: BinaryIO, length: int, checksum: Any, keep: bool) -> Optional[bytes]:
    """Reads the body in pieces that stay in the processor's cache; returns it where it is wanted."""
    if keep:
        body = _exactly(stream, length)
        checksum.update(body)
        return body
    piece = memoryview(bytearray(min(length, _CHUNK)))
    while length:
        count = stream.readinto(piece[: min(length, len(piece))])  # type: ignore[attr-defined]  # all of ours have it
        if not count:
            raise EntryError("an end before its length")
        checksum.update(piece[:count])
        length -= count
    return None


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EntryError("an end before its length")  # cut while it was read
    return data


def _dump(meta: Mapping[str, Any]) -> bytes:
    return json.dumps(meta, sort_keys=True).encode()


def _length(body: Union[Buffer, Path]) -> int:
    return os.stat(body).st_size if isinstance(body, Path) else len(body)
