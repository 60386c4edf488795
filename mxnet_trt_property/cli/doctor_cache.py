"""What `mxnet-trt doctor` tells of the folder of built engines."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Optional

from mxnet_trt_property import settings
from mxnet_trt_property.errors import TensorRTPropertyError, message

_LITTLE_BYTES = 256 << 20
_OTHER = "set MXNET_TENSORRT_CACHE_DIR to another folder"


def cache() -> dict[str, Any]:
    """Returns the folder, what is in it, and its `problem` with what to do about it, or None. Writes nothing."""
    from mxnet_trt_property.cache import build, folder

    record: dict[str, Any] = {"on": True, "folder": "", "problem": None}
    record.update(entries=0, size_bytes=0, limit_bytes=0)
    try:
        config = settings.read()
        record.update(on=config.cache, limit_bytes=config.cache_mb << 20)
        path = build.path_of(config)
        record["folder"] = str(path)
        record["problem"] = folder.problem_of(path)
        if record["problem"] is None and path.exists():
            rows = folder.Folder(path, record["limit_bytes"]).rows()
            record.update(entries=len(rows), size_bytes=sum(row.size_bytes for row in rows))
        if config.cache and record["problem"] is None:
            record["problem"] = _cannot_write(path)
    except (TensorRTPropertyError, OSError) as error:
        record["problem"] = str(error)
    return record


def _cannot_write(path: Path) -> Optional[str]:
    """Returns why no engine can be added, or None."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir():
        what = f"The cache folder {path} cannot be made"
        return message(what, found=f"{there}, which is no folder", next_step=_OTHER)
    if not os.access(there, os.W_OK):
        return message(
            f"Nothing can be added to the cache folder {path}; engines in it are used",
            found=f"{there} is read-only",
            next_step=f"chmod u+w {there}, mount it writable, or {_OTHER}",
        )
    free = shutil.disk_usage(there).free
    if free < _LITTLE_BYTES:
        return message(
            f"The disk of the cache folder {path} is nearly full; engines may not fit",
            found=f"{free >> 20} MiB free",
            next_step=f"make room, mxnet-trt cache clear, or {_OTHER}",
        )
    return None
