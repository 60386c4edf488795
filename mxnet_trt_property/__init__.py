"""TensorRT for stock Apache MXNet 1.9, as a plugin.

Set `MXNET_SUBGRAPH_BACKEND=TensorRT` and run the program as it is: supported subgraphs run as TensorRT engines on a
GPU, and as ONNX Runtime sessions where there is none. Nothing needs to be imported; importing this package does what
the import hook does, for environments where the hook is turned off.
"""

from __future__ import annotations

from mxnet_trt_property import _autoload
from mxnet_trt_property._version import __version__

TYPE_CHECKING = False  # `typing` costs more than this package does at the start of an interpreter
if TYPE_CHECKING:
    from typing import Any

    from mxnet_trt_property.compiled import compile, load
    from mxnet_trt_property.session import Report

__all__ = ["__version__", "compile", "load", "reports"]


def reports() -> tuple[Report, ...]:
    """Returns one record for each TensorRT node alive: label, engine, nodes, builds and forwards so far."""
    from mxnet_trt_property import session_table

    return session_table.reports()


def __getattr__(name: str) -> Any:
    """Imports `compile` and `load` when they are first asked for: they need NumPy, which starting Python does not."""
    if name not in ("compile", "load"):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from mxnet_trt_property import compiled

    return getattr(compiled, name)


_autoload.register()
