"""The process-wide table of built engines, so that equal subgraphs with equal weights build once.

A program's key is the subgraph's structure, a digest of every weight, the engine, its version, the options and the
device. The table keeps the most recently used programs alive; a session holds its own program besides. Idle runners
(execution contexts) wait with their program: Gluon makes and drops a state at every forward.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

import numpy as np
from blake3 import blake3

from mxnet_trt_property import forks
from mxnet_trt_property.cache import build
from mxnet_trt_property.cache.keys import Recipe
from mxnet_trt_property.engines.registry import Device, Engine, Options, Program, Runner
from mxnet_trt_property.profiling import Section
from mxnet_trt_property.settings import Settings

# Programs that no session holds are kept up to this many; each holds its weights in memory.
_KEPT = 16


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
    """A program with its idle runners.

    Attributes:
        program: The program.
        engine: The name of its engine.
        seconds: How long the build, the refit or the reading took.
        loaded: Whether the program came out of the cache on disk.
        idle: Runners that nobody uses.
        users: How many sessions have got the entry and not given it back; one whose engine failed never does.
    """

    program: Program
    engine: str
    seconds: float
    loaded: bool = False
    idle: list[Runner] = field(default_factory=list)
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take_runner(self, device: Device) -> Runner:
        """Returns an idle runner, or a new one."""
        with self.lock:
            if self.idle:
                return self.idle.pop()
        return self.program.runner(device)

    def give_back(self, runner: Runner) -> None:
        """Keeps a runner that its session no longer needs for the next one."""
        with self.lock:
            self.idle.append(runner)
            self.users -= 1


_entries: OrderedDict[Key, Entry] = OrderedDict()
_building: dict[Key, threading.Lock] = {}
_lock = threading.Lock()
_builds = 0


def digest(array: np.ndarray[Any, Any]) -> bytes:
    """Returns a digest of a weight's bytes."""
    # BLAKE3 takes a fifth of the time of what hashlib has. On one thread: threads of its pool would not outlive a fork.
    return blake3(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest(length=16)


def get(
    key: Key,
    engine: Engine,
    model: Callable[[], bytes],
    options: Options,
    device: Device,
    label: str,
    config: Settings,
    recipe: Optional[Recipe] = None,
) -> tuple[Entry, bool]:
    """Returns the entry for `key` and whether it was made by this call: built, or read from disk.

    Two threads that ask for one key build it once, and so do two processes where there is a cache.

    Args:
        key: The key.
        engine: The engine to build with.
        model: Writes the ONNX model.
        options: The options of the build.
        device: Where the arrays lie.
        label: What messages call the subgraph.
        config: The settings, of which the cache's count here.
        recipe: What the ONNX model is made of; None where only its bytes tell.

    Raises:
        EngineError: The build failed.
    """
    global _builds
    with _lock:
        if key in _entries:
            _entries.move_to_end(key)
            return _use(_entries[key]), False
        turn = _building.setdefault(key, threading.Lock())
    with turn:
        with _lock:
            if key in _entries:
                return _use(_entries[key]), False
        start = time.perf_counter()
        try:
            with Section("build", label):
                program, loaded = build.get(engine, model, recipe, options, device, label, config)
        except BaseException:
            with _lock:
                _building.pop(key, None)
            raise
        entry = Entry(program, engine.name, time.perf_counter() - start, loaded)
        with _lock:
            _builds += not loaded
            _building.pop(key, None)
        put(key, entry)
        return entry, True


def put(key: Key, entry: Entry) -> None:
    """Adds an entry that its caller uses to the table; one that is there already for `key` stays."""
    _return_memory()
    with _lock:
        _entries.setdefault(key, _use(entry))
        while len(_entries) > _KEPT:
            _entries.popitem(last=False)


def has(key: Key) -> bool:
    """Whether the table has a program for `key`."""
    with _lock:
        return key in _entries


def take_over(entry: Entry) -> bool:
    """Takes an entry that no session uses out of the table, for the caller alone; returns whether it could."""
    with _lock:
        if entry.users:
            return False
        entry.users = 1  # for good: who had the entry as well must not take it over a second time
        _remove(entry)
        return True


def discard(entry: Entry) -> None:
    """Takes an entry whose program failed out of the table, so that no other session gets it."""
    with _lock:
        _remove(entry)


def _remove(entry: Entry) -> None:
    for key in [k for k, e in _entries.items() if e is entry]:
        del _entries[key]


def _use(entry: Entry) -> Entry:
    """Counts a user; the lock of the table is held."""
    with entry.lock:
        entry.users += 1
    return entry


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
