"""The file that a compiled model is saved in.

    magic, 8 bytes | format number, u32 | length of meta, u32 | length of model, u64 | meta | model | SHA-256, 32 bytes

Integers are little-endian; meta is UTF-8 JSON; model is a serialized ONNX model; the checksum is over all before it.
The lengths are checked against the file's before anything is read by them, so a damaged header allocates nothing.
Nothing in the file is code: no pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

from mxnet_trt_property.errors import TensorRTPropertyError, message

MAGIC = b"MXTRT\r\n\x00"  # a transfer in text mode changes it
FORMAT = 1
_HEADER = struct.Struct("<8sIIQ")
_CHECKSUM_BYTES = 32

PathLike = Union[str, "os.PathLike[str]"]


class ModelFileError(TensorRTPropertyError, ValueError):
    """A file is not a compiled model, is damaged, or is of a version that cannot be read."""


def write(path: PathLike, meta: Mapping[str, Any], model: bytes) -> None:
    """Writes a file; one that was there is replaced at once or, on an error, left as it was.

    Raises:
        OSError: The file cannot be written.
    """
    target = Path(path)
    text = json.dumps(meta).encode()
    header = _HEADER.pack(MAGIC, FORMAT, len(text), len(model))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with open(temporary, "xb") as file:
            checksum = hashlib.sha256()
            for part in (header, text, model):
                file.write(part)
                checksum.update(part)
            file.write(checksum.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: PathLike) -> tuple[dict[str, Any], bytes]:
    """Returns meta and model of a file.

    Raises:
        ModelFileError: The file is foreign, damaged, or of another format.
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(_HEADER.size)
        if not header.startswith(MAGIC[: len(header)]) or not header:
            raise ModelFileError(
                message(
                    f"{path} is not a compiled model",
                    found=f"a file that begins with {header[: len(MAGIC)]!r}",
                    required="a file of CompiledModel.save()",
                )
            )
        if len(header) < _HEADER.size:
            raise _damaged(path, f"{size} bytes", f"at least {_HEADER.size} bytes")
        _, number, meta_bytes, model_bytes = _HEADER.unpack(header)
        if number != FORMAT:
            raise ModelFileError(
                message(
                    f"{path} is a compiled model of a format that this version cannot read",
                    found=f"format {number}",
                    required=f"format {FORMAT}",
                    next_step="compile and save the model again with this version",
                )
            )
        expected = _HEADER.size + meta_bytes + model_bytes + _CHECKSUM_BYTES
        if size != expected:
            raise _damaged(path, f"{size} bytes", f"{expected} bytes by its header")
        text, model = file.read(meta_bytes), file.read(model_bytes)
        checksum = hashlib.sha256(header)
        checksum.update(text)
        checksum.update(model)
        if file.read(_CHECKSUM_BYTES) != checksum.digest():
            raise _damaged(path, "contents that do not match the checksum", "the contents that were saved")
    meta: dict[str, Any] = json.loads(text)
    return meta, model


def _damaged(path: PathLike, found: str, required: str) -> ModelFileError:
    return ModelFileError(
        message(
            f"The compiled model {path} is damaged",
            found=found,
            required=required,
            next_step="copy the file again, or compile and save the model again",
        )
    )
