"""The process-wide table of built engines, so that equal subgraphs with equal weights build once.

A program's key is the subgraph's structure, a digest of every weight, the engine, its version, the options and the
device. Idle runners (execution contexts) wait with their program: Gluon makes and drops a state at every forward.

The table holds at most MXNET_TENSORRT_MAX_ENGINES programs, and at most 16 that no session uses. What was not used for
the longest time goes, also out of sessions that are alive but not running: an executor keeps its session as long as it
lives, and a program may keep an executor for each of many shapes.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional, Protocol, cast

import numpy as np
from blake3 import blake3

from mxnet_trt_property import forks, native, settings
from mxnet_trt_property.cache import build
from mxnet_trt_property.cache.keys import Recipe
from mxnet_trt_property.engines.registry import Device, Engine, FlexibleProgram, Options, Program, Runner, Shapes
from mxnet_trt_property.profiling import Section
from mxnet_trt_property.settings import Settings

_log = logging.getLogger("mxnet_trt_property")

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


class User(Protocol):
    """A session, to the table."""

    label: str

    @property
    def last_use(self) -> int:
        """When its last forward began, by `native.clock`."""

    def let_go(self, entry: Entry) -> bool:
        """Frees its runner of a program; returns whether it uses the program no longer."""


@dataclass(eq=False)
class Entry:
    """A program with its idle runners.

    Attributes:
        program: The program.
        engine: The name of its engine.
        seconds: How long the build, the refit or the reading took.
        loaded: Whether the program came out of the cache on disk.
        idle: Runners that no session has, with their shapes where the program serves several.
        lock: Guards what follows, and `idle`. Who has the table's lock may take it, but not the other way round.
        users: The sessions that have a runner, or are about to.
        retired: Whether it is no session's to take any more: it failed, was freed, or gave its program to a refit.
        returned: When a runner was given back last.
    """

    program: Program
    engine: str
    seconds: float
    loaded: bool = False
    idle: list[tuple[Optional[Shapes], Runner]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: set[User] = field(default_factory=set)
    retired: bool = False
    returned: int = 0

    @property
    def last_use(self) -> int:
        """When it was used last, by `native.clock`."""
        with self.lock:
            users = list(self.users)
        return max([self.returned, *(user.last_use for user in users)])

    def add_user(self, user: User) -> None:
        """Notes that a session is about to use it, or does."""
        with self.lock:
            self.users.add(user)

    def drop_user(self, user: User) -> None:
        """Forgets a session that uses it no longer."""
        with self.lock:
            self.users.discard(user)

    def retire(self) -> bool:
        """Claims it for the caller alone; returns whether that could be: no session uses it, nor has claimed it."""
        with self.lock:
            if self.users or self.retired:
                return False
            self.retired = True
            return True

    def free(self) -> bool:
        """Closes the program; returns False, and leaves it, where a session is running it or has taken it over."""
        with self.lock:
            users = list(self.users)
        for user in users:
            if not user.let_go(self):
                return False
            self.drop_user(user)
        if not self.retire():
            return False
        with self.lock:
            idle, self.idle = self.idle, []
        for _, runner in idle:
            runner.close()
        self.program.close()
        return True

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

    def give_back(self, user: User, runner: Runner, shapes: Optional[Shapes]) -> None:
        """Keeps a runner that its session no longer needs for the next one with these shapes.

        The session is no user any more from then on, and not before: who finds no users finds all runners idle.
        """
        gone: Optional[Runner] = None
        with self.lock:
            self.users.discard(user)
            self.returned = native.clock()
            if self.retired:
                gone = runner
            else:
                self.idle.append((shapes, runner))
                if shapes is not None and len(self.idle) > _IDLE_RUNNERS:
                    gone = self.idle.pop(0)[1]
        if gone is not None:
            gone.close()


_entries: dict[Key, Entry] = {}
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
    user: User,
    config: Settings,
    recipe: Optional[Recipe] = None,
) -> tuple[Entry, bool]:
    """Returns the entry for `key`, of which `user` is a user now, and whether it was made by this call.

    Two threads that ask for one key make it once, and so do two processes where there is a cache.

    Args:
        key: The key.
        engine: The engine to build with.
        model: Writes the ONNX model.
        options: The options of the build.
        device: Where the arrays lie.
        user: Who asks.
        config: The settings, of which the cache's count here.
        recipe: What the ONNX model is made of; None where only its bytes tell.

    Raises:
        EngineError: The build failed.
    """
    global _builds
    with _lock:
        if key in _entries:
            return _used(_entries[key], user), False
        turn = _building.setdefault(key, threading.Lock())
    with turn:
        with _lock:
            if key in _entries:
                return _used(_entries[key], user), False
        start = time.perf_counter()
        try:
            with Section("build", user.label):
                program, loaded = build.get(engine, model, recipe, options, device, user.label, config)
        except BaseException:
            with _lock:
                _building.pop(key, None)
            raise
        entry = Entry(program, engine.name, time.perf_counter() - start, loaded)
        with _lock:
            _builds += not loaded
            _entries.setdefault(key, _used(entry, user))
            _building.pop(key, None)
    _return_memory()
    _keep_bound(entry, user.label)
    return entry, True


def put(key: Key, entry: Entry, user: User) -> None:
    """Adds an entry, of which `user` is a user then, to the table; one that is there already for `key` stays."""
    _return_memory()
    with _lock:
        _entries.setdefault(key, _used(entry, user))
    _keep_bound(entry, user.label)


def has(key: Key) -> bool:
    """Whether the table has a program for `key`."""
    with _lock:
        return key in _entries


def take_over(entry: Entry) -> bool:
    """Takes an entry that no session uses out of the table, for the caller alone; returns whether it could."""
    with _lock:
        if not entry.retire():
            return False
        _remove(entry)
        return True


def discard(entry: Entry, user: User) -> None:
    """Takes an entry whose program failed for `user` out of the table, so that no other session gets it."""
    with _lock, entry.lock:
        entry.retired = True
        entry.users.discard(user)
        _remove(entry)


def _remove(entry: Entry) -> None:
    """Takes an entry out of the table; the lock of the table is held."""
    for key in [k for k, e in _entries.items() if e is entry]:
        del _entries[key]


def _used(entry: Entry, user: User) -> Entry:
    """Returns the entry with one user more; the lock of the table is held, so that nobody takes it over meanwhile."""
    entry.add_user(user)
    return entry


def _keep_bound(new: Entry, label: str) -> None:
    """Frees programs until there are no more than may be, but not `new`."""
    most = settings.value("MAX_ENGINES")
    with _lock:
        others = [(key, entry) for key, entry in _entries.items() if entry is not new]
    others.sort(key=lambda pair: pair[1].last_use)
    idle = sum(not entry.users for _, entry in others)
    count = len(others) + 1
    for key, entry in others:
        is_idle = not entry.users
        if count <= most and not (is_idle and idle > _KEPT):
            continue
        # Out of the table first: who takes it from there meanwhile is a user already, and running.
        with _lock:
            if _entries.get(key) is not entry:
                continue
            del _entries[key]
        if not entry.free():
            with _lock:
                if not entry.retired:
                    _entries.setdefault(key, entry)
            continue  # whatever was used next longest ago goes in its place
        count -= 1
        idle -= is_idle
        if not is_idle:
            _log.info(
                "%s: an engine that was not used for long is freed, for there may be %d (MXNET_TENSORRT_MAX_ENGINES); "
                "it is read from the cache or built again when it is needed",
                label,
                most,
            )


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
