"""Locks between processes, by flock: the kernel lets go of one when its process ends, however that ends.

A child of a fork has copies of its parent's handles, and a lock lives as long as any copy; so the child closes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Optional

from mxnet_trt_property import forks
from mxnet_trt_property.logs import warn_once

_log = logging.getLogger("mxnet_trt_property")

_POLL_S = 0.05
_held: set[int] = set()
_held_lock = threading.Lock()


def hold(handle: int) -> bool:
    """Locks an open file or folder if it can be had at once; returns whether it was.

    Where the file system knows no locks nothing is locked, and the answer is False.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    with _held_lock:
        _held.add(handle)
    return True


def let_go(handle: int) -> None:
    """Forgets a handle, which the caller closes next; that unlocks it."""
    with _held_lock:
        _held.discard(handle)


def is_free(handle: int) -> bool:
    """Whether no process holds the lock of an open file or folder; the caller has it until it closes the handle."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class Lock:
    """Lets one process at a time through, and the others wait; for a while only, since the one may hang.

    Args:
        path: The file to lock. It is removed afterwards.
        patience_s: How long to wait for another process.

    Attributes:
        held: Whether the lock was had. Without it the caller goes on all the same, and an entry is written twice.
    """

    def __init__(self, path: Path, patience_s: float) -> None:
        self._path = path
        self._patience_s = patience_s
        self._handle: Optional[int] = None
        self.held = False

    def __enter__(self) -> Lock:
        end = time.monotonic() + self._patience_s
        told = False
        while True:
            try:
                handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:  # a folder that can only be read: all build for themselves
                _log.debug("no lock %s: %s", self._path, error)
                return self
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _written(handle)
                os.close(handle)
            except OSError as error:  # a file system without locks
                os.close(handle)
                _log.debug("no lock %s: %s", self._path, error)
                return self
            else:
                if self._is_current(handle):
                    self._keep(handle)
                    return self
                os.close(handle)
                continue
            if owner and not told:  # who only looks whether it is free writes no name
                _log.info("waiting for process %s, which builds the same engine", owner)
                told = True
            if time.monotonic() > end:
                warn_once(
                    f"Process {owner or 'unknown'} has built the same engine for {self._patience_s:.0f} s; this one "
                    "builds it, too",
                    next_step="end that process if it hangs",
                )
                return self
            time.sleep(_POLL_S)

    def _is_current(self, handle: int) -> bool:
        """Whether the locked file still has the name: the one before removed it when it was done."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(handle), os.stat(self._path))
        return False

    def _keep(self, handle: int) -> None:
        with _held_lock:
            _held.add(handle)
        self._handle, self.held = handle, True
        with contextlib.suppress(OSError):  # a full disk; it is only for messages
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            let_go(self._handle)
            os.close(self._handle)
            self._handle = None


def _written(handle: int) -> str:
    with contextlib.suppress(OSError):
        return os.read(handle, 20).decode("ascii", "replace")
    return ""


@forks.in_child
def _leave_behind() -> None:
    global _held_lock
    _held_lock = threading.Lock()  # a thread of the parent may have held it
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()
