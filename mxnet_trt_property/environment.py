"""The process's environment for the time of a block: variables that are set, and what MXNet's C++ sees as it binds."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Optional

from mxnet_trt_property import forks, settings

DEFAULT_BACKEND = ""
"""MXNet's own choice: an empty value counts as unset in its C++."""
IDLE_BACKEND = "default"
"""One that MXNet always has and that takes no node. 'NONE' would be told on stderr at each bind."""

_lock = threading.RLock()
_values: list[str] = []


@contextmanager
def native_backend(value: str) -> Iterator[None]:
    """Lets MXNet's C++ see another value of MXNET_SUBGRAPH_BACKEND inside: DEFAULT_BACKEND, or IDLE_BACKEND.

    With 'TensorRT' it would run its pass with the partitioner's stale answers, or fail where the backend is not
    registered yet, and would leave out the MKLDNN fusion of the nodes that stay with it. Where no nodes stay with it,
    IDLE_BACKEND saves three of the four inferences of the whole graph that MKLDNN's passes make.

    Only the C environment is changed; `os.environ` and other threads' Python code see no difference. One thread is
    inside at a time: the value is the process's, and MXNet's passes keep what they work on in process-wide objects.
    """
    with _lock:
        _values.append(value)
        _show()
        try:
            yield
        finally:
            _values.pop()
            _show()


def _show() -> None:
    """Puts the value that counts now into the C environment."""
    name = settings.BACKEND_VARIABLE
    if _values and settings.backend_is_on():
        os.putenv(name, _values[-1])
    elif name in os.environ:
        os.putenv(name, os.environ[name])
    else:
        os.unsetenv(name)


@forks.in_child
def _leave_behind() -> None:
    global _lock
    # Another thread of the parent may have been inside. The one that forked cannot: a bind runs no code of the program.
    _lock = threading.RLock()
    _values.clear()
    _show()


@contextmanager
def environment(values: Mapping[str, Optional[str]]) -> Iterator[None]:
    """Sets variables for a block; None unsets one."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, Optional[str]]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
