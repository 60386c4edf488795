"""From a model to a program: what a key covers, one build for all processes, and every failure on the way."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mxnet_trt_property.cache import build, keys
from mxnet_trt_property.cache.folder import Folder
from mxnet_trt_property.cache.keys import Recipe
from mxnet_trt_property.engines.registry import Options
from mxnet_trt_property.errors import EngineError
from tests.cache.engine import CPU, SlowEngine, config, get

ROOT = Path(__file__).resolve().parents[2]
PIECES = Recipe(b"structure", (b"first", b"second"))


@pytest.fixture
def slow() -> SlowEngine:
    return SlowEngine()


def entries(path: Path) -> list[Path]:
    return sorted(path.glob("engine-*"))


def test_built_once(slow: SlowEngine, tmp_path: Path) -> None:
    program, loaded = get(slow, tmp_path)
    assert (program.body, loaded, slow.builds) == (b"modelmodel", False, 1)
    program, loaded = get(slow, tmp_path)
    assert (program.body, loaded, slow.builds) == (b"modelmodel", True, 1)
    assert [file.name.endswith(".mxtrtc") for file in tmp_path.iterdir()] == [True], "no lock and no scratch is left"


def test_off(slow: SlowEngine, tmp_path: Path) -> None:
    for _ in range(2):
        assert get(slow, tmp_path, cache="0")[1] is False
    assert list(tmp_path.iterdir()) == []


def test_a_key_covers_everything(slow: SlowEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get(slow, tmp_path, recipe=PIECES)
    get(slow, tmp_path, recipe=Recipe(b"structurefirst", (b"second",)))
    get(slow, tmp_path, recipe=PIECES._replace(weights=(b"second", b"first")))
    get(slow, tmp_path, recipe=PIECES._replace(weights=(b"firstsecond",)))
    get(slow, tmp_path)
    get(slow, tmp_path, b"another model")
    get(slow, tmp_path, options=Options(workspace_bytes=1))
    get(slow, tmp_path, options=Options(precision="fp16"))
    get(slow, tmp_path, options=Options(workspace_bytes=7))
    monkeypatch.setattr(SlowEngine, "version", lambda self: "2")
    get(slow, tmp_path)
    slow.name = "other"
    get(slow, tmp_path)
    slow.variants = ("elsewhere",)
    get(slow, tmp_path)
    monkeypatch.setattr(keys, "_code", lambda: b"changed")
    get(slow, tmp_path)
    assert (slow.builds, slow.loads, len(entries(tmp_path))) == (13, 0, 13)
    get(slow, tmp_path, options=Options(verbose=True))
    assert (slow.builds, slow.loads) == (13, 1), "what is logged changes no engine"


def test_every_option_is_in_the_key(tmp_path: Path) -> None:
    """One that is added later is, too: none is named in keys.py but the one that changes nothing."""
    base = Options()
    changed = {"str": "x", "int": 7, "bool": True, "Profile": ((((1,), (2,), (3,)),),)}
    for field in dataclasses.fields(Options):
        value = next(v for k, v in changed.items() if str(field.type).startswith(k.split("[", maxsplit=1)[0]))
        other = keys.of_engine(b"", "e", "1", "", dataclasses.replace(base, **{field.name: value}))
        assert (other == keys.of_engine(b"", "e", "1", "", base)) == (field.name == "verbose"), field.name


def test_another_variant_serves(slow: SlowEngine, tmp_path: Path) -> None:
    slow.variants = ("sm_86",)
    get(slow, tmp_path)
    slow.variants = ("any", "sm_86")
    assert get(slow, tmp_path)[1] is True
    slow.variants = ()
    assert get(slow, tmp_path)[1] is False


@pytest.mark.parametrize("place", [0, 9, 13, 17, 25, 40, 70, 200, 4096, -1])
def test_a_damaged_entry(slow: SlowEngine, tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture) -> None:
    """Right answer, one line in the log, and the next one finds a whole entry."""
    get(slow, tmp_path)
    (file,) = entries(tmp_path)
    data = bytearray(file.read_bytes())
    data[place] ^= 0x10
    file.write_bytes(data)
    program, loaded = get(slow, tmp_path)
    assert (program.body, loaded) == (b"modelmodel", False)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "counts as not there" in caplog.text
    assert get(slow, tmp_path)[1] is True


def test_an_entry_that_the_engine_refuses(
    slow: SlowEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    get(slow, tmp_path)

    def refuse(self: Any, *given: Any) -> Any:
        raise EngineError("made by another driver")

    with monkeypatch.context() as patch:
        patch.setattr(SlowEngine, "unpack", refuse)
        assert get(slow, tmp_path)[1] is False
    assert [record.message.count("made by another driver") for record in caplog.records] == [1]
    assert get(slow, tmp_path)[1] is True


def test_a_damaged_plan_does_not_reach_the_engine(
    slow: SlowEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(slow, tmp_path)
    (file,) = entries(tmp_path)
    data = bytearray(file.read_bytes())
    data[data.index(b"modelmodel")] ^= 1
    file.write_bytes(data)
    monkeypatch.setattr(SlowEngine, "unpack", lambda *given: pytest.fail("it was given a damaged plan"))
    assert get(slow, tmp_path)[0].body == b"modelmodel"


def test_a_build_that_fails(slow: SlowEngine, tmp_path: Path) -> None:
    slow.fails = True
    for _ in range(2):
        with pytest.raises(EngineError, match="told to fail"):
            get(slow, tmp_path)
    assert list(tmp_path.iterdir()) == []
    slow.fails = False
    assert get(slow, tmp_path)[0].body == b"modelmodel"


def test_a_folder_that_cannot_be_used(
    slow: SlowEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture, fresh_warnings: None
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for _ in range(3):
        assert get(slow, file)[0].body == b"modelmodel"
    assert len(caplog.records) == 1, "told once"
    assert "cannot be used; engines are built without it" in caplog.text
    assert file.read_text() == ""


def test_an_engine_that_cannot_tell_its_machine(slow: SlowEngine, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(SlowEngine, "cache_variants", lambda self, device: 1 // 0)
    assert get(slow, tmp_path)[0].body == b"modelmodel"
    assert list(tmp_path.iterdir()) == []


def test_what_lies_beside_an_entry(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "cache", 1 << 30)
    shelf, other = build.Shelf(folder, b"a"), build.Shelf(folder, b"b")
    shelf.put("kernels", b"code", "GPU")
    shelf.put("timings", b"times", "GPU", shared=True)
    assert (shelf.get("kernels", "GPU"), shelf.get("kernels", "other GPU")) == (b"code", None)
    assert (other.get("kernels", "GPU"), other.get("timings", "GPU", shared=True)) == (None, b"times")
    with shelf.scratch() as path:
        assert path is not None
        (path / "file").write_text("")
    with shelf.file(b"data") as file:
        assert file.read_bytes() == b"data"
    assert len(list(folder.path.iterdir())) == 2


# -- several processes -------------------------------------------------------------------------


def start(folder: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.cache.engine", str(folder), str(log), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE, text=True)


def begun(log: Path, process: subprocess.Popen[str]) -> None:
    """Waits until a process builds."""
    while not (log.exists() and f"begin {process.pid}" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.01)


def test_processes_that_start_together_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [start(tmp_path / "cache", log, 1.0) for _ in range(3)]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert said == ["built modelmodel", "loaded modelmodel", "loaded modelmodel"]
    assert log.read_text().count("begin") == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_builder_that_is_killed(tmp_path: Path) -> None:
    """Who waits for it goes on at once; nothing of it is left."""
    log = tmp_path / "log"
    first = start(tmp_path / "cache", log, 600)
    begun(log, first)
    second = start(tmp_path / "cache", log, 0)
    time.sleep(1)
    assert second.poll() is None, "it waits"
    first.send_signal(signal.SIGKILL)
    assert second.communicate(timeout=60)[0].strip() == "built modelmodel"
    first.communicate()
    third = start(tmp_path / "cache", log, 0)
    assert third.communicate(timeout=60)[0].strip() == "loaded modelmodel"
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_builder_that_hangs(
    slow: SlowEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log, folder = tmp_path / "log", tmp_path / "cache"
    first = start(folder, log, 600)
    try:
        begun(log, first)
        first.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(build, "PATIENCE_S", 0.3)
        with caplog.at_level(logging.INFO):
            program, loaded = get(slow, folder)
        assert (program.body, loaded) == (b"modelmodel", False)
        assert f"waiting for process {first.pid}" in caplog.text
        assert f"Process {first.pid} has built the same engine for 0 s; this one builds it, too" in caplog.text
        assert get(slow, folder)[1] is True
    finally:
        first.kill()
        first.communicate()


FORKS = """
import os, sys, time
from pathlib import Path
from mxnet_trt_property.cache.folder import Folder
with Folder(Path(sys.argv[1]), 1 << 30).lock("engine", bytes(32), 0.0) as lock:
    assert lock.held
    child = os.fork()
    if child == 0:
        time.sleep(600)
    print(child, flush=True)
    time.sleep(600)
"""


def test_a_child_of_a_fork_keeps_no_lock(tmp_path: Path) -> None:
    """A worker that was forked during a build and outlives its parent must not keep others waiting."""
    folder = Folder(tmp_path / "cache", 1 << 30)
    command = [sys.executable, "-c", FORKS, str(folder.path)]
    process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with folder.lock("engine", bytes(32), 0.0) as lock:
            assert not lock.held
        process.kill()
        process.wait()
        with folder.lock("engine", bytes(32), 30.0) as lock:
            assert lock.held
        os.kill(child, 0)  # it lives all the time
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_threads_and_locks_do_not_wait_for_the_dead(slow: SlowEngine, tmp_path: Path) -> None:
    """A lock file that a killed process left is no lock."""
    get(slow, tmp_path)
    (file,) = entries(tmp_path)
    leftover = tmp_path / file.name.replace(".mxtrtc", ".lock")
    leftover.write_text("12345")
    file.unlink()
    assert get(slow, tmp_path)[1] is False
    assert not leftover.exists()


def test_the_settings_are_options(tmp_path: Path) -> None:
    found = config(tmp_path, cache="0", cache_mb="7")
    assert (found.cache, found.cache_dir, found.cache_mb) == (False, tmp_path, 7)
    assert build.path_of(found) == tmp_path
    assert CPU.kind == "cpu"
