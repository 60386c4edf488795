"""The process-wide table of built engines, so that equal subgraphs with equal weights build once.

A program's key is the subgraph's structure, a digest of every weight, the engine, its version, the options and the
device. Idle runners (execution contexts) wait with their program: Gluon makes and drops a state at every forward.

The table holds at most MXNET_TENSORRT_MAX_ENGINES programs, and at most 16 that no session uses. What was not used for
the longest time goes, also out of sessions that are alive but not running: an executor keeps its session as long as it
lives, and a program may keep an executor for each of many shapes.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional, Protocol, cast

import numpy as np

from mxnet_trt_property import forks, native, settings
from mxnet_trt_property.engines.registry import Device, Engine, FlexibleProgram, Options, Program, Runner, Shapes

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
        seconds: How long the build took.
        idle: Runners that no session has, with their shapes where the program serves several.
        lock: Guards `idle`.
        users: The sessions that have a runner.
        returned: When a runner was given back last.
    """

    program: Program
    engine: str
    seconds: float
    idle: list[tuple[Optional[Shapes], Runner]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: set[User] = field(default_factory=set)
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

    def free(self) -> bool:
        """Closes the program; returns False, and leaves it, where a session is running it."""
        with self.lock:
            users = list(self.users)
        for user in users:
            if not user.let_go(self):
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

    def give_back(self, runner: Runner, shapes: Optional[Shapes]) -> None:
        """Keeps a runner that its session no longer needs for the next one with these shapes."""
        self.returned = native.clock()
        with self.lock:
            self.idle.append((shapes, runner))
            gone = self.idle.pop(0)[1] if shapes is not None and len(self.idle) > _IDLE_RUNNERS else None
        if gone is not None:
            gone.close()


_entries: dict[Key, Entry] = {}
_building: dict[Key, threading.Lock] = {}
_lock = threading.Lock()
_builds = 0


def digest(array: np.ndarray[Any, Any]) -> bytes:
    """Returns a digest of a weight's bytes."""
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()


def get(
    key: Key, engine: Engine, model: Callable[[], bytes], options: Options, device: Device, user: User
) -> tuple[Entry, bool]:
    """Returns the entry for `key`, of which `user` is a user now, and whether it was built by this call.

    Two threads that ask for one key build it once.

    Raises:
        EngineError: The build failed.
    """
    global _builds
    with _lock:
        if key in _entries:
            _entries[key].add_user(user)
            return _entries[key], False
        building = _building.setdefault(key, threading.Lock())
    with building:
        with _lock:
            if key in _entries:
                _entries[key].add_user(user)
                return _entries[key], False
        start = time.perf_counter()
        try:
            program = engine.build(model(), options, device, user.label)
        except BaseException:
            with _lock:
                _building.pop(key, None)
            raise
        entry = Entry(program, engine.name, time.perf_counter() - start, users={user})
        _return_memory()
        with _lock:
            _builds += 1
            _entries[key] = entry
            _building.pop(key, None)
        _keep_bound(entry, user.label)
        return entry, True


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
            if _entries.pop(key, None) is not entry:
                continue
        if not entry.free():
            with _lock:
                _entries.setdefault(key, entry)
            continue  # whatever was used next longest ago goes in its place
        count -= 1
        idle -= is_idle
        if not is_idle:
            _log.info(
                "%s: an engine that was not used for long is freed, for there may be %d (MXNET_TENSORRT_MAX_ENGINES); "
                "it is built again when it is needed",
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
