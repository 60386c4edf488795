"""Capturing the work of a stream as a CUDA graph."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from mxnet_trt_property.cuda_driver import Driver

_CAPTURE_RELAXED = 2  # calls of this and other threads that would spoil a stricter capture are allowed
_PROGRAMMATIC = 1  # CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC

_Ptr = ctypes.c_void_p

replaced_edges = 0
"""How many edges captures with full edges have replaced in this process."""


class _EdgeData(ctypes.Structure):
    """CUgraphEdgeData."""

    _fields_ = (
        ("from_port", ctypes.c_ubyte),
        ("to_port", ctypes.c_ubyte),
        ("kind", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte * 5),
    )


def capture(driver: Driver, stream: int, work: Callable[[], None], full_edges: bool = False) -> int:
    """Returns an executable graph (a CUgraphExec) of what `work` queues on `stream`.

    Args:
        driver: The CUDA driver; the stream's device is current.
        stream: The stream to capture.
        work: Queues work on it.
        full_edges: Whether a kernel must wait for the end of the one before it, also where it was launched to
            start earlier (programmatic dependent launch).

    Raises:
        CudaError: The driver cannot capture the work.
    """
    driver.call("cuStreamBeginCapture_v2", "beginning a capture", stream, _CAPTURE_RELAXED)
    graph, executable = _Ptr(), _Ptr()
    try:
        work()
    finally:
        # Always ended, or the stream would stay unusable; an invalidated capture is an error of its own.
        status = driver.try_call("cuStreamEndCapture", stream, ctypes.byref(graph))
    driver.check(status, "ending a capture")
    try:
        if full_edges:
            _make_edges_full(driver, graph)
        what = "making a graph executable"
        driver.call("cuGraphInstantiateWithFlags", what, ctypes.byref(executable), graph, 0)
    finally:
        driver.call("cuGraphDestroy", "freeing a graph", graph)
    return int(executable.value or 0)


def _make_edges_full(driver: Driver, graph: Any) -> None:
    """Replaces each programmatic edge of a graph by one that waits for the whole kernel."""
    global replaced_edges
    what = "reading the edges of a graph"
    count = ctypes.c_size_t()
    driver.call("cuGraphGetEdges_v2", what, graph, None, None, None, ctypes.byref(count))
    if not count.value:
        return
    sources, targets = (_Ptr * count.value)(), (_Ptr * count.value)()
    data = (_EdgeData * count.value)()
    driver.call("cuGraphGetEdges_v2", what, graph, sources, targets, data, ctypes.byref(count))
    for i in range(count.value):
        if data[i].kind != _PROGRAMMATIC:
            continue
        ends = ((_Ptr * 1)(sources[i]), (_Ptr * 1)(targets[i]))
        what = "replacing an edge of a graph"
        driver.call("cuGraphRemoveDependencies_v2", what, graph, *ends, ctypes.byref(data[i]), 1)
        driver.call("cuGraphAddDependencies_v2", what, graph, *ends, None, 1)
        replaced_edges += 1
