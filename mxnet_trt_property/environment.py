"""The process's environment for the time of a block: variables that are set, and what MXNet's C++ sees as it binds."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Optional

from mxnet_trt_property import settings

_native_lock = threading.Lock()
_native_depth = 0


@contextmanager
def native_default_backend() -> Iterator[None]:
    """Lets MXNet's C++ see its own default backend inside.

    With the variable set it would run its pass with the partitioner's stale answers, or fail where the backend is not
    registered yet, and would leave out the MKLDNN fusion of the nodes that stay with it. Only the C environment is
    changed (an empty value counts as unset there); `os.environ` and other threads' Python code see no difference.
    """
    global _native_depth
    name = settings.BACKEND_VARIABLE
    with _native_lock:
        _native_depth += 1
        hide = os.environ.get(name) == settings.BACKEND
        if hide:
            os.putenv(name, "")
    try:
        yield
    finally:
        with _native_lock:
            _native_depth -= 1
            if _native_depth == 0 and name in os.environ:
                os.putenv(name, os.environ[name])


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
