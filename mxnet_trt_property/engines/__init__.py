"""The libraries that run subgraphs, and what one must offer: all that an engine in another package needs to import.

docs/engines.md tells how to write one; `mxnet_trt_property.engines.testing` checks it.
"""

from mxnet_trt_property.engines.registry import (
    ENTRY_POINT_GROUP,
    Buffer,
    Device,
    Engine,
    Options,
    Program,
    ReplayableRunner,
    Runner,
    check_buffer,
    check_count,
    skip_exit_handlers,
)
from mxnet_trt_property.errors import EngineError, message

__all__ = [
    "ENTRY_POINT_GROUP",
    "Buffer",
    "Device",
    "Engine",
    "EngineError",
    "Options",
    "Program",
    "ReplayableRunner",
    "Runner",
    "check_buffer",
    "check_count",
    "message",
    "skip_exit_handlers",
]
