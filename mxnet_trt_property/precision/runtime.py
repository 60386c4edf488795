"""ONNX Runtime as the library that precision is made with: its tools, and runs of a model on sample inputs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mxnet_trt_property.errors import EngineError, message

Feed = Mapping[str, np.ndarray[Any, Any]]
"""An array for each input of a model, by its ONNX name."""


def tool(module: str, label: str) -> Any:
    """Returns `onnxruntime.<module>`, or onnxruntime itself for an empty name.

    Raises:
        EngineError: It cannot be imported; says what to install.
    """
    try:
        return importlib.import_module(f"onnxruntime.{module}" if module else "onnxruntime")
    except Exception as error:  # a broken installation raises more than ImportError
        missing = isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime"
        # Its tools want an onnx of about their own age.
        packages = "onnxruntime" if missing else "--upgrade onnx onnxruntime"
        raise EngineError(
            message(
                f"The precision of {label} cannot be changed without ONNX Runtime, which has the tools for it",
                found=f"{type(error).__name__}: {error}",
                next_step=f"pip install {packages}, or set MXNET_TENSORRT_PRECISION=fp32",
            )
        ) from None


def session(model: bytes, label: str, *, optimize: bool) -> Any:
    """Returns a session on the CPU. Without `optimize` no value of the model is merged away.

    Raises:
        Exception: Whatever ONNX Runtime raises for a model that it refuses; its types share no base of their own.
    """
    runtime = tool("", label)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    levels = runtime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if optimize else levels.ORT_DISABLE_ALL
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def peak(array: np.ndarray[Any, Any]) -> float:
    """Returns the largest absolute value."""
    return float(np.abs(array).max()) if array.size else 0.0
