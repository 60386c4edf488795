"""Small checkpoints for tests of the commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mxnet as mx

from tests.symbols import random_arrays


def save(symbol: Any, folder: Path, **shapes: tuple[int, ...]) -> str:
    """Writes a checkpoint with random parameters and returns its prefix."""
    arrays = random_arrays(symbol, shapes)
    states = set(symbol.list_auxiliary_states())
    given = {k: v for k, v in arrays.items() if k not in shapes and not k.endswith("label")}
    prefix = str(folder / "net")
    mx.model.save_checkpoint(
        prefix,
        0,
        symbol,
        {k: v for k, v in given.items() if k not in states},
        {k: v for k, v in given.items() if k in states},
    )
    return prefix


def environment(**variables: str) -> dict[str, str]:
    """Returns the environment of a subprocess; ONNX Runtime, since a test must not depend on the machine's GPU."""
    return {**os.environ, "MXNET_TENSORRT_ENGINE": "onnxruntime", **variables}
