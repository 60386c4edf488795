"""What becomes of engines in the child of a fork; what a fork itself has to wait for is in cpp/fork.cc.

Threads and CUDA of the parent are gone there, so every engine is. Nothing can be freed either: ONNX Runtime would wait
for its threads, CUDA would fail. Each module that holds engines puts them aside, and they are built again when needed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

Leave = Callable[[], object]

_leaves: list[Leave] = []


def in_child(leave: Leave) -> Leave:
    """Registers a function for the child: it forgets what the child cannot use, and returns what must not be freed.

    It also has to replace the locks of its module, since a thread of the parent may have held them.
    """
    _leaves.append(leave)
    return leave


def never_free(left: object) -> None:
    """Keeps an object, and what it holds, from ever being freed, also when the interpreter ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(left))  # one more reference than anybody knows of


def _run() -> None:
    never_free([leave() for leave in _leaves])


os.register_at_fork(after_in_child=_run)
