"""The folder: who may own it, full and read-only disks, killed writers, clocks that jump, and what goes first."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mxnet_trt_property.cache import entry, folder
from mxnet_trt_property.cache.folder import Folder, FolderError

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
OTHER = 54321  # a user id that nobody has


def key(number: int) -> bytes:
    return number.to_bytes(32, "little")


def store(where: Folder, number: int, body: bytes = b"body") -> bool:
    return where.store("engine", key(number), {"number": number}, b"head", body)


def load(where: Folder, number: int) -> Any:
    return where.load("engine", key(number), keep_body=True)


def names(where: Folder) -> list[str]:
    return sorted(item.name for item in where.path.iterdir())


@pytest.fixture
def cache(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "a" / "cache", 100 * MIB)


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a program of Python."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


# -- who may own it ----------------------------------------------------------------------------


def test_it_is_made_for_its_owner_alone(cache: Folder) -> None:
    assert cache.path.stat().st_mode & 0o777 == 0o700
    assert store(cache, 1)
    assert cache.file_of("engine", key(1)).stat().st_mode & 0o077 == 0
    found = load(cache, 1)
    assert (found.meta, found.head, found.body) == ({"number": 1}, b"head", b"body")
    assert load(cache, 2) is None


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o720])
def test_one_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(FolderError, match=rf"others may write \(mode {mode:04o}\).*chmod 700"):
        Folder(tmp_path, MIB)
    tmp_path.chmod(0o755)
    Folder(tmp_path, MIB)


def test_one_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "cache"
    mine.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    with pytest.raises(FolderError, match=rf"a folder of user \d+.*chown -R {OTHER}"):
        Folder(mine, MIB)


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path, words in ((file, "no folder"), (file / "cache", "Not a directory|File exists")):
        with pytest.raises(FolderError, match=words):
            Folder(path, MIB)


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: OTHER)
    with pytest.raises(FolderError, match="an absolute XDG_CACHE_HOME.*MXNET_TENSORRT_CACHE_DIR"):
        folder.default_path()


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[None]:
    """Lets other users into the folders above, which pytest makes for the owner alone."""
    above = [parent for parent in path.parents if parent.stat().st_uid == os.geteuid() and parent != Path("/")]
    modes = [(parent, parent.stat().st_mode & 0o7777) for parent in above]
    for parent, mode in modes:
        parent.chmod(mode | 0o055)
    try:
        yield
    finally:
        for parent, mode in modes:
            parent.chmod(mode)


def as_user(user: int, path: Path) -> list[str]:
    """Returns what a process of a user can do with a folder, and then what it logs.

    A fork, since the user may not be allowed to start this Python; all that is needed is imported here already.
    """
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that the child never needs
        child = os.fork()
    if child == 0:
        lines: list[str] = []
        try:
            if os.geteuid() != user:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            handler = logging.Handler()
            handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
            logging.getLogger("mxnet_trt_property").addHandler(handler)
            try:
                cache = Folder(path, MIB)
            except FolderError as error:
                lines.append(f"refused: {error}")
            else:
                found = load(cache, 0) is not None
                lines.insert(0, f"read {found}, stored {store(cache, 1)}")
        except BaseException as error:
            lines.append(repr(error))
        finally:
            os.write(write_end, "\n".join(lines).encode())
            os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as stream:
        lines = stream.read().splitlines()
    os.waitpid(child, 0)
    return lines


def test_permission_denied(tmp_path: Path) -> None:
    """As a user who is not root: a read-only folder is read, one that cannot be entered or made is refused."""
    is_root = os.geteuid() == 0
    user = OTHER if is_root else os.geteuid()
    mine, closed, foreign = (tmp_path / name for name in ("mine", "closed", "foreign"))
    for path in (mine, closed):
        store(Folder(path, MIB), 0)
    foreign.mkdir(mode=0o755)
    if is_root:
        for path in (mine, closed, *mine.iterdir()):
            os.chown(path, user, user)
    mine.chmod(0o500)
    closed.chmod(0o000)
    with reachable(mine):
        did, *logged = as_user(user, mine)
        assert did == "read True, stored False"
        assert len(logged) == 1
        assert "cannot be kept in the cache folder" in logged[0]
        assert "Permission denied" in logged[0]
        (refused,) = as_user(user, closed)
        assert "a folder that cannot be read" in refused
        assert "chmod 700" in refused
        (refused,) = as_user(user, closed / "new")
        assert "Permission denied" in refused
        if is_root:
            (refused,) = as_user(user, foreign)
            assert f"a folder of user 0 | required: one of the user who runs the program, {user}" in refused
            (refused,) = as_user(user, foreign / "new")
            assert "refused: The cache folder" in refused
            assert "Permission denied" in refused
    closed.chmod(0o700)
    mine.chmod(0o700)


# -- foreign and hostile files -----------------------------------------------------------------


def test_what_is_no_file_of_ours_is_a_miss(cache: Folder, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    store(cache, 0)
    good = cache.file_of("engine", key(0))

    def link(path: Path) -> None:
        path.symlink_to(good)

    def by_others(path: Path) -> None:
        path.write_bytes(good.read_bytes())
        path.chmod(0o666)

    kinds: list[Any] = [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04pickle"),
        lambda path: path.write_bytes(good.read_bytes()),  # under another's name
        lambda path: path.write_bytes(good.read_bytes()[:-1]),
        link,
        by_others,
        os.mkfifo,
        os.mkdir,
    ]
    for number, make in enumerate(kinds, 1):
        make(cache.file_of("engine", key(number)))
        caplog.clear()
        assert load(cache, number) is None
        assert len(caplog.records) == 1, "one line in the log"
        assert "counts as not there" in caplog.text
    rows = {row.name: row.problem for row in cache.rows(verify=True)}
    assert [name for name, problem in rows.items() if problem is None] == [good.name]
    assert store(cache, 2, b"anew")
    assert load(cache, 2).body == b"anew"
    assert load(cache, 0) is not None


def test_a_file_of_another_user_is_a_miss(cache: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    store(cache, 0)
    owner = os.geteuid()
    if owner == 0:
        os.chown(cache.file_of("engine", key(0)), OTHER, OTHER)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert load(cache, 0) is None


# -- writers that fail -------------------------------------------------------------------------


def test_a_full_disk(cache: Folder) -> None:
    """A limit on the size of files is what a full disk is to the writer: a write that fails half way."""
    store(cache, 7, b"old")
    program = f"""
import logging, resource, sys
logging.basicConfig(format="%(message)s")
from pathlib import Path
from mxnet_trt_property.cache.folder import Folder
cache = Folder(Path({str(cache.path)!r}), {100 * MIB})
resource.setrlimit(resource.RLIMIT_FSIZE, ({MIB}, {MIB}))
print([cache.store("engine", (n).to_bytes(32, "little"), {{}}, b"", bytes(size)) for n, size in
       ((7, {4 * MIB}), (8, {4 * MIB}), (9, 1000))])
"""
    done = run(program)
    assert done.stdout.strip() == "[False, False, True]", done.stderr
    assert done.stderr.count("cannot be kept in the cache folder") == 1
    assert "File too large" in done.stderr
    assert load(cache, 7).body == b"old", "the entry that was there is as it was"
    assert load(cache, 8) is None
    assert len(names(cache)) == 2, "nothing is left of what failed"


def test_a_device_that_is_full() -> None:
    with open("/dev/full", "wb", buffering=0) as stream, pytest.raises(OSError, match="No space left"):
        entry.write(stream, key(0), {}, b"", b"body")


WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from mxnet_trt_property.cache import entry
from mxnet_trt_property.cache.folder import Folder
cache = Folder(Path(sys.argv[1]), 1 << 30)
write = entry.write
def slowly(stream, *rest):
    write(stream, *rest)
    stream.flush()
    print("written", flush=True)
    time.sleep(60)
entry.write = slowly
if sys.argv[2] == "store":
    cache.store("engine", bytes(32), {}, b"", b"body")
else:
    with cache.scratch() as path:
        (path / "part").write_bytes(b"part")
        print("written", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("what", ["store", "scratch"])
def test_a_writer_that_is_killed(cache: Folder, what: str) -> None:
    """While it lives its work is left alone; when it was killed, the next one that writes removes the rest."""
    command = [sys.executable, "-c", WRITE_SLOWLY, str(cache.path), what]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        assert store(cache, 1)
        assert [name.startswith(folder.SCRATCH) for name in names(cache)] == [True, False]
        assert load(cache, 0) is None
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert load(cache, 0) is None
    assert len(names(cache)) == 2
    assert store(cache, 2)
    assert all(name.endswith(folder.SUFFIX) for name in names(cache))


# -- which entries go --------------------------------------------------------------------------


def aged(cache: Folder, number: int, seconds: float) -> None:
    file = cache.file_of("engine", key(number))
    os.utime(file, (time.time() - seconds,) * 2)


def kept(cache: Folder) -> list[int]:
    return sorted(row.meta["number"] for row in cache.rows(verify=True))


def test_what_was_not_used_for_longest_goes(cache: Folder, caplog: pytest.LogCaptureFixture) -> None:
    cache.limit_bytes = 4 * MIB
    for number in range(3):
        assert store(cache, number, bytes(MIB))
        aged(cache, number, 100 - number)
    assert load(cache, 0) is not None  # used again
    with caplog.at_level(logging.INFO):
        assert store(cache, 3, bytes(MIB))
    assert kept(cache) == [0, 2, 3]
    assert "1 entries of the cache" in caplog.text
    assert cache.prune(MIB + MIB // 2) == [cache.file_of("engine", key(n)).name for n in (2, 0)]
    assert kept(cache) == [3]
    cache.clear()
    assert names(cache) == []


def test_one_that_is_too_large_is_not_kept(cache: Folder, caplog: pytest.LogCaptureFixture) -> None:
    store(cache, 0, bytes(MIB))
    assert not store(cache, 1, bytes(101 * MIB))
    assert "MXNET_TENSORRT_CACHE_MB allows 100" in caplog.text
    assert kept(cache) == [0]


def test_a_clock_that_jumps(cache: Folder) -> None:
    """Entries from the future neither outlive all others nor push out what is written now."""
    cache.limit_bytes = 4 * MIB
    for number in range(3):
        store(cache, number, bytes(MIB))
        aged(cache, number, -1e9)
    for number in range(3, 9):
        assert store(cache, number, bytes(MIB))
        assert load(cache, number) is not None
        time.sleep(0.02)
    assert kept(cache) == [6, 7, 8]
    aged(cache, 7, 2e9)  # before 1970: the clock was behind
    assert load(cache, 7) is not None
    assert all(abs(row.used - time.time()) < 3600 for row in cache.rows())


def test_a_disk_that_removes_nothing(cache: Folder, caplog: pytest.LogCaptureFixture) -> None:
    store(cache, 1, bytes(MIB))
    cache.file_of("engine", key(2)).mkdir()
    cache.clear()
    assert "cannot remove" in caplog.text
    assert names(cache) == [cache.file_of("engine", key(2)).name]
