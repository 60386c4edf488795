"""Times on a GPU: events on a stream, and how far apart the GPU passed them."""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Optional

from mxnet_trt_property.cuda_driver import Driver


class Stopwatch:
    """Marks places in a stream's work. The device must be current; leave the block with the work done.

    Args:
        driver: The CUDA driver.
        stream: The stream.
    """

    def __init__(self, driver: Driver, stream: int) -> None:
        self._driver = driver
        self._stream = stream
        self._events: list[ctypes.c_void_p] = []

    def __enter__(self) -> Stopwatch:
        return self

    def mark(self) -> None:
        """Marks the place behind what is queued by now."""
        event = ctypes.c_void_p()
        self._driver.call("cuEventCreate", "creating an event", ctypes.byref(event), 0)
        self._events.append(event)
        self._driver.call("cuEventRecord", "recording an event", event, self._stream)

    def milliseconds(self) -> list[float]:
        """Waits for the stream, and returns the time between each mark and the next."""
        self._driver.synchronize(self._stream)
        found = []
        for first, second in zip(self._events, self._events[1:]):
            value = ctypes.c_float()
            what = "reading the time between two events"
            self._driver.call("cuEventElapsedTime", what, ctypes.byref(value), first, second)
            found.append(value.value)
        return found

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        while self._events:
            self._driver.call("cuEventDestroy_v2", "destroying an event", self._events.pop())
