"""Sections in the output of `mx.profiler`: what MXNet itself cannot see of a TensorRT node.

MXNet records each forward of a node under `[_TensorRT]`, captured runs too. What these sections add, in a domain
called TensorRT, is rare work, and forwards that go through Python: partition, convert, weights, build, capture,
copies, forward, each with the name of its node.

With the profiler off a section is one look at a flag, and the path of captured runs has none at all. MXNet has no call
that tells whether its profiler runs, so the functions that switch it are wrapped (activation). No call made here waits
for MXNet's engine, and so they may be made inside an operator's forward: a task is an object of the profiler's own.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any, Callable, Optional

DOMAIN = "TensorRT"

# MXNet's own switch at import (env_var.md).
_AUTOSTART = "MXNET_PROFILER_AUTOSTART"

_running = os.environ.get(_AUTOSTART, "") not in ("", "0")
_domain: Any = None


def is_running() -> bool:
    """Whether MXNet's profiler is on, as far as Python switched it."""
    return _running


def watched(set_state: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `mx.profiler.set_state` with a look at what it sets."""

    def watching(state: str = "stop", profile_process: str = "worker") -> Any:
        global _running
        result = set_state(state, profile_process)
        if profile_process == "worker":
            _running = state == "run"
        return result

    return watching


class Section:
    """Times a block under a name, if the profiler runs when the block begins."""

    __slots__ = ("_name", "_task")

    def __init__(self, what: str, label: str) -> None:
        self._name = (what, label)
        self._task: Any = None

    def __enter__(self) -> None:
        if _running:
            self._task = _start(" ".join(self._name))

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._task is not None:
            self._task.stop()
            self._task = None


def _start(name: str) -> Any:
    global _domain
    profiler = sys.modules.get("mxnet.profiler")
    if profiler is None:
        return None  # a compiled model's process may have no MXNet
    if _domain is None:
        _domain = profiler.Domain(DOMAIN)
    # One for each section: a task keeps one start time, and another thread may be in a section of that name.
    task = profiler.Task(_domain, name)
    task.start()
    return task
