"""The folder of the cache: who may own it, reading and writing entries, and which of them go when it is full.

Entries are written to a hidden sibling and renamed, so that a reader sees a whole one or none. What a killed process
leaves behind is hidden and unlocked, and is removed by the next one that writes. Nothing here depends on what the clock
says but the order in which entries go, and one from the future counts as used now.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import platformdirs

from mxnet_trt_property.cache import entry, locks
from mxnet_trt_property.cache.entry import Entry, EntryError
from mxnet_trt_property.errors import TensorRTPropertyError, message
from mxnet_trt_property.logs import warn_once

_log = logging.getLogger("mxnet_trt_property")

SUFFIX = ".mxtrtc"
SCRATCH = ".scratch-"
_LOCK = ".lock"
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_CLOCK_SLACK_S = 60.0


class FolderError(TensorRTPropertyError):
    """The folder of the cache cannot be used, or is not safe to use."""


@dataclass(frozen=True)
class Row:
    """One entry, as `mxnet-trt cache ls` tells of it.

    Attributes:
        name: The file's name.
        size_bytes: Its length.
        used: When it was used last, in seconds since 1970.
        problem: What is wrong with it; None where nothing is, or where it was not read.
        meta: What describes it; empty where it was not read or cannot be.
    """

    name: str
    size_bytes: int
    used: float
    problem: Optional[str]
    meta: Mapping[str, Any]


def default_path() -> Path:
    """Returns the folder that counts where the user names none.

    Raises:
        FolderError: The environment names no home.
    """
    try:
        path = Path(platformdirs.user_cache_dir("mxnet-trt-property", appauthor=False))
    except RuntimeError:  # of its newer versions, where there is no home
        path = Path("~")
    if not path.is_absolute():  # it would lie wherever the program happens to be started
        raise FolderError(
            _refusal(path, "neither HOME nor an absolute XDG_CACHE_HOME", "one of them", "name another one")
        )
    return path


def problem_of(path: Path) -> Optional[str]:
    """Returns why a folder cannot be used, with what to do about it, or None. One that is not there is no problem."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _refusal(path, str(error), "a folder that can be entered", "name another one")
    if not stat.S_ISDIR(status.st_mode):
        return _refusal(path, "something that is no folder", "a folder", "remove it, or name another one")
    if status.st_uid != os.geteuid():
        return _refusal(
            path,
            f"a folder of user {status.st_uid}",
            f"one of the user who runs the program, {os.geteuid()}: engines in it are trusted",
            f"chown -R {os.geteuid()} {path}, or name another one",
        )
    if status.st_mode & _OTHERS_MAY_WRITE:
        return _refusal(
            path,
            f"a folder that others may write (mode {stat.S_IMODE(status.st_mode):04o})",
            "one that only its owner may write: engines in it are trusted",
            f"look what is in it, then chmod 700 {path}",
        )
    if not os.access(path, os.R_OK | os.X_OK):
        return _refusal(path, "a folder that cannot be read", "one that can", f"chmod 700 {path}")
    return None


def _refusal(path: Path, found: str, required: str, next_step: str) -> str:
    step = f"{next_step} with MXNET_TENSORRT_CACHE_DIR" if next_step.endswith("another one") else next_step
    what = f"The cache folder {path} cannot be used; engines are built without it"
    return message(what, found=found, required=required, next_step=f"{step}, or set MXNET_TENSORRT_CACHE=0")


class Folder:
    """A folder that was found safe.

    Args:
        path: The folder; made, for its owner alone, where it is not there.
        limit_bytes: The most that its entries may take.

    Raises:
        FolderError: It cannot be used; the text says why and what to do.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
        except OSError as error:
            raise FolderError(_refusal(path, str(error), "a folder that can be made", "name another one")) from error
        problem = problem_of(path)
        if problem is not None:
            raise FolderError(problem)

    # -- entries -------------------------------------------------------------------------------

    def file_of(self, kind: str, key: bytes) -> Path:
        """Returns the file of an entry."""
        return self.path / f"{kind}-{key.hex()}{SUFFIX}"

    def load(self, kind: str, key: bytes, keep_body: bool, refused: Optional[set[int]] = None) -> Optional[Entry]:
        """Returns an entry, or None where there is none that can be trusted; the log tells of a damaged one.

        Args:
            kind: The entry's kind.
            key: The entry's key.
            keep_body: Whether the large part is wanted in memory.
            refused: Files (by inode) that are known to be damaged; one that is found so now is added.
        """
        file = self.file_of(kind, key)
        known = refused if refused is not None else set()
        try:
            inode = os.lstat(file).st_ino
            if inode in known:
                return None
            known.add(inode)  # until it was read
            found = _read(file, key, keep_body)
            known.discard(inode)
        except FileNotFoundError:
            return None
        except (OSError, EntryError, MemoryError) as error:
            what = "A file of the cache cannot be used and counts as not there"
            warn_once(what, found=f"{file}: {error}", next_step="none: it is written anew")
            return None
        with contextlib.suppress(OSError):  # a folder that can only be read serves all the same
            os.utime(file)
        return found

    def store(
        self, kind: str, key: bytes, meta: Mapping[str, Any], head: entry.Buffer, body: Union[entry.Buffer, Path]
    ) -> bool:
        """Writes an entry and makes room for it; returns whether it is there. The log tells where it is not."""
        file = self.file_of(kind, key)
        try:
            size = entry.size_of(meta, head, body)
            if size > self.limit_bytes:
                found = f"{size / 2**20:.0f} MiB"
                raise OSError(f"it has {found}, and MXNET_TENSORRT_CACHE_MB allows {self.limit_bytes >> 20} for all")
            with self.temporary() as (stream, temporary):
                entry.write(stream, key, meta, head, body)
                stream.flush()
                # No fsync: after a crash of the system a file that was not written whole fails its checksum.
                os.replace(temporary, file)
        except (OSError, ValueError, MemoryError) as error:
            what = f"An engine cannot be kept in the cache folder {self.path}; the next process builds it again"
            step = "make room, set MXNET_TENSORRT_CACHE_DIR to another folder, or MXNET_TENSORRT_CACHE=0"
            warn_once(what, found=str(error), next_step=step)
            return False
        try:
            self.prune(keep=file.name)
        except OSError as error:  # the folder is gone, or cannot be listed any more
            what = f"The cache folder {self.path} cannot be kept small"
            warn_once(what, found=str(error), next_step="mend the folder's rights, or mxnet-trt cache clear")
        return True

    @contextlib.contextmanager
    def temporary(self) -> Iterator[tuple[Any, Path]]:
        """Gives a new hidden file, open for writing, and removes it at the end if it still has its name.

        It is locked while it is open: one that can be locked belongs to no process.

        Raises:
            OSError: It cannot be made.
        """
        path = self.path / f"{SCRATCH}{os.getpid()}-{os.urandom(6).hex()}"
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as stream:
            locks.hold(stream.fileno())
            try:
                yield stream, path
            finally:
                path.unlink(missing_ok=True)
                locks.let_go(stream.fileno())

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Gives a new hidden folder on the same disk, removed at the end.

        Raises:
            OSError: It cannot be made.
        """
        path = self.path / f"{SCRATCH}{os.getpid()}-{os.urandom(6).hex()}"
        path.mkdir(mode=0o700)
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            locks.hold(handle)
            yield path
        finally:
            _remove(path)
            locks.let_go(handle)
            os.close(handle)

    def lock(self, kind: str, key: bytes, patience_s: float) -> locks.Lock:
        """Returns the lock of those who build an entry."""
        return locks.Lock(self.path / f"{kind}-{key.hex()}{_LOCK}", patience_s)

    # -- housekeeping --------------------------------------------------------------------------

    def rows(self, verify: bool = False) -> list[Row]:
        """Returns all entries, the one used last at the end.

        Args:
            verify: Whether to read each to its end and check it.
        """
        found = []
        for file, status in self._files():
            problem: Optional[str] = None
            meta: Mapping[str, Any] = {}
            if verify:
                try:
                    meta = _read(file, _key_of(file), keep_body=False).meta
                except FileNotFoundError:
                    continue
                except (OSError, EntryError) as error:
                    problem = str(error)
            found.append(Row(file.name, status.st_size, status.st_mtime, problem, meta))
        return sorted(found, key=lambda row: (row.used, row.name))

    def prune(self, limit_bytes: Optional[int] = None, keep: str = "") -> list[str]:
        """Removes what dead processes left behind, and entries, the one used longest ago first, until they fit.

        Args:
            limit_bytes: The most that may stay; the folder's own limit by default.
            keep: The name of an entry that stays in any case: it was written just now, whatever the clock says.

        Returns:
            The names of the removed entries.
        """
        self._remove_leftovers()
        now = time.time()
        rows = self.rows()
        for row in rows:
            if row.used > now + _CLOCK_SLACK_S:
                # The clock was ahead when it was used. It would outlive all others; from now on it ages as they do.
                with contextlib.suppress(OSError):
                    os.utime(self.path / row.name, (now, now))
        total = sum(row.size_bytes for row in rows)
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        removed = []
        for row in rows:
            if total <= limit:
                break
            if row.name != keep and _unlink(self.path / row.name):
                removed.append(row.name)
                total -= row.size_bytes
        if removed and limit_bytes is None:
            _log.info("%d entries of the cache %s made room for a new one", len(removed), self.path)
        return removed

    def clear(self) -> list[str]:
        """Removes every entry; returns their names."""
        return self.prune(limit_bytes=-1)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for item in os.scandir(self.path):
            if item.name.endswith(SUFFIX) and not item.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # another process removes entries, too
                    yield Path(item.path), item.stat(follow_symlinks=False)

    def _remove_leftovers(self) -> None:
        for item in os.scandir(self.path):
            if item.name.startswith(SCRATCH) or item.name.endswith(_LOCK):
                with contextlib.suppress(OSError):
                    handle = os.open(item.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                    try:
                        if locks.is_free(handle):
                            _remove(Path(item.path))
                    finally:
                        os.close(handle)


def _read(file: Path, key: Optional[bytes], keep_body: bool) -> Entry:
    """Reads a file that may be anything.

    Raises:
        EntryError: It is not what it should be, or not ours alone.
        OSError: It cannot be read.
    """
    # Not by way of a link, and without waiting where it is a pipe.
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as stream:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise EntryError("something that is no file")
        if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_MAY_WRITE:
            mode = stat.S_IMODE(status.st_mode)
            raise EntryError(f"a file of user {status.st_uid} with mode {mode:04o}, which others may have written")
        found = entry.read(stream, status.st_size, key, file, keep_body)
        return dataclasses.replace(found, inode=status.st_ino)


def _key_of(file: Path) -> Optional[bytes]:
    try:
        return bytes.fromhex(file.name[: -len(SUFFIX)].rpartition("-")[2])
    except ValueError:
        return b""  # no entry has this key


def _unlink(path: Path) -> bool:
    """Removes a file and returns whether it could be; what is no file stays."""
    try:
        path.unlink(missing_ok=True)  # another process removes entries, too
    except OSError as error:
        warn_once(f"The cache cannot remove {path}", found=str(error), next_step="remove it")
        return False
    return True


def _remove(path: Path) -> None:
    """Removes a file, or a folder of files."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            for inner in path.iterdir():
                inner.unlink()
            path.rmdir()
        else:
            path.unlink()
