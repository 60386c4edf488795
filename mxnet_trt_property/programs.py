"""The process-wide table of built engines, so that equal subgraphs with equal weights build once.

A program's key is the subgraph's structure, a digest of every weight, the engine, its version, the options and the
device. The table keeps the most recently used programs alive; a session holds its own program besides. Idle runners
(execution contexts) wait with their program: Gluon makes and drops a state at every forward.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional, cast

import numpy as np

from mxnet_trt_property import forks
from mxnet_trt_property.engines.registry import Device, Engine, FlexibleProgram, Options, Program, Runner, Shapes

# Programs that no session holds are kept up to this many; each holds its weights in memory.
_KEPT = 16

# Of a program that serves a range of shapes so many runners wait; each has memory of its own.
_IDLE_RUNNERS = 8


class Key(NamedTuple):
    """What a program depends on."""

    structure: str
    weights: tuple[bytes, ...]
    engine: str
    version: str
    options: tuple[Any, ...]
    device: Device


@dataclass
class Entry:
    """A program with its idle runners."""

    program: Program
    engine: str
    seconds: float
    idle: list[tuple[Optional[Shapes], Runner]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take_runner(self, device: Device, shapes: Optional[Shapes]) -> Runner:
        """Returns an idle runner, or a new one.

        Args:
            device: Where the arrays lie.
            shapes: The arrays' shapes, for a program that was built for a range of them.
        """
        with self.lock:
            for place in reversed(range(len(self.idle))):
                if self.idle[place][0] == shapes:
                    return self.idle.pop(place)[1]
        if shapes is None:
            return self.program.runner(device)
        return cast(FlexibleProgram, self.program).runner_for(device, shapes)

    def give_back(self, runner: Runner, shapes: Optional[Shapes]) -> None:
        """Keeps a runner that its session no longer needs for the next one with these shapes."""
        with self.lock:
            self.idle.append((shapes, runner))
            gone = self.idle.pop(0)[1] if shapes is not None and len(self.idle) > _IDLE_RUNNERS else None
        if gone is not None:
            gone.close()


_entries: OrderedDict[Key, Entry] = OrderedDict()
_building: dict[Key, threading.Lock] = {}
_lock = threading.Lock()
_builds = 0


def digest(array: np.ndarray[Any, Any]) -> bytes:
    """Returns a digest of a weight's bytes."""
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()


def get(
    key: Key, engine: Engine, model: Callable[[], bytes], options: Options, device: Device, label: str
) -> tuple[Entry, bool]:
    """Returns the entry for `key` and whether it was built by this call.

    Two threads that ask for one key build it once.

    Raises:
        EngineError: The build failed.
    """
    global _builds
    with _lock:
        if key in _entries:
            _entries.move_to_end(key)
            return _entries[key], False
        building = _building.setdefault(key, threading.Lock())
    with building:
        with _lock:
            if key in _entries:
                return _entries[key], False
        start = time.perf_counter()
        try:
            program = engine.build(model(), options, device, label)
        except BaseException:
            with _lock:
                _building.pop(key, None)
            raise
        entry = Entry(program, engine.name, time.perf_counter() - start)
        _return_memory()
        with _lock:
            _builds += 1
            _entries[key] = entry
            _building.pop(key, None)
            while len(_entries) > _KEPT:
                _entries.popitem(last=False)
        return entry, True


@forks.in_child
def _leave_behind() -> object:
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have held it
    left = list(_entries.values())
    _entries.clear()
    _building.clear()
    return left


def _return_memory() -> None:
    """Gives freed memory back to the system: a build frees several copies of the weights, and glibc keeps them."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def build_count() -> int:
    """Returns how many programs were built in this process."""
    return _builds


def clear() -> None:
    """Forgets every program that no session holds."""
    with _lock:
        _entries.clear()
