"""Calibration tables: the ranges of the values that int8 quantizes, as a JSON file.

Its keys are MXNet's names of outputs (`conv0_output`, `split0_output1`) and of arguments (`data`), so that it holds for
a network however that is partitioned; a value inside of what one MXNet node is written as has the ONNX name, which
starts with the node's name.
"""

from __future__ import annotations

import functools
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from mxnet_trt_property.errors import SettingError, message

Ranges = Mapping[str, tuple[float, float]]
"""The smallest and the largest value of each tensor, by name."""

METHODS = ("entropy", "minmax")
FORMAT = "mxnet-trt calibration table"
_VERSION = 1
_ADVICE = (
    "make a table with: mxnet-trt calibrate PREFIX --shape data=N,C,H,W --data FILE.npy -o TABLE.json; then set "
    "MXNET_TENSORRT_CALIBRATION_TABLE=TABLE.json, or MXNET_TENSORRT_CALIBRATION_ITERS=N to calibrate on the first N "
    "forwards"
)


def check(table: Optional[Path], iterations: int) -> None:
    """Refuses int8 without calibration.

    Raises:
        SettingError: There is neither a table nor a number of forwards, or the table cannot be read.
    """
    if table is not None:
        load(table)
    elif not iterations:
        raise SettingError(
            message(
                "Precision int8 needs to know the ranges of a network's values",
                found="neither a calibration table nor a number of forwards to calibrate on",
                next_step=_ADVICE,
            )
        )


def load(path: Path) -> dict[str, tuple[float, float]]:
    """Returns the ranges of a table.

    Raises:
        SettingError: The file cannot be read or is no such table.
    """
    try:
        # Gluon may make a state at every forward, and each of them asks.
        status = path.stat()
        return dict(_load(path, status.st_mtime_ns, status.st_size))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingError(
            message(
                f"The calibration table {path} cannot be read",
                found=f"{type(error).__name__}: {error}",
                required=f"a JSON file of mxnet-trt calibrate, version {_VERSION}",
                next_step=_ADVICE,
            )
        ) from error


@functools.lru_cache(maxsize=16)
def _load(path: Path, _time: int, _size: int) -> dict[str, tuple[float, float]]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["format"] != FORMAT or data["version"] != _VERSION:
        raise ValueError(f"format {data['format']!r}, version {data['version']!r}")
    return checked({str(name): (float(low), float(high)) for name, (low, high) in data["ranges"].items()})


def checked(ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Returns ranges.

    Raises:
        ValueError: One is not finite, or ends before it begins.
    """
    for name, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"the range of {name!r} is {low} to {high}")
    return ranges


def save(path: Path, ranges: Ranges, method: str, samples: int) -> None:
    """Writes a table, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    data = {"format": FORMAT, "version": _VERSION, "method": method, "batches": samples, "ranges": dict(ranges)}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def merge(tables: Sequence[Ranges]) -> dict[str, tuple[float, float]]:
    """Returns one table of several; a name that occurs twice gets the range that holds both."""
    found: dict[str, tuple[float, float]] = {}
    for table in tables:
        for name, (low, high) in table.items():
            before = found.get(name, (low, high))
            found[name] = (min(before[0], low), max(before[1], high))
    return found


def by_key(ranges: Ranges, keys: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Returns the ranges of ONNX values by the keys of a table; a value without key has its own name."""
    return merge([{keys.get(name, name): extent} for name, extent in ranges.items()])


def by_value(table: Ranges, keys: Mapping[str, str], values: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Returns the ranges of ONNX values out of a table; values that it does not know are left out."""
    wanted = {name: keys.get(name, name) for name in values}
    return {name: table[key] for name, key in wanted.items() if key in table}
