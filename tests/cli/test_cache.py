"""`mxnet-trt cache` and `mxnet-trt build` as programs, and what `doctor` says of broken cache folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mxnet as mx
import pytest

from mxnet_trt_property.cache.folder import Folder
from mxnet_trt_property.cli import doctor_cache
from mxnet_trt_property.cli.build import BuildError, parse_gpus
from mxnet_trt_property.engines import trt_build
from mxnet_trt_property.errors import EngineError
from tests.symbols import mlp, random_arrays

SHAPES = {"data": (2, 5)}


def call(*arguments: object, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mxnet_trt_property", *map(str, arguments)]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "cache", 1 << 30)
    for number in range(3):
        made.store("engine", bytes([number]) * 32, {"engine": "slow", "label": f"node{number}"}, b"", bytes(1 << 20))
    return made


def test_ls_verify_prune_clear(folder: Folder) -> None:
    where = ("--dir", folder.path, "--json")
    record = json.loads(call("cache", "ls", *where).stdout)
    assert (record["folder"], len(record["entries"])) == (str(folder.path), 3)
    assert {row["label"] for row in record["entries"]} == {"node0", "node1", "node2"}
    assert record["size_bytes"] == sum(file.stat().st_size for file in folder.path.iterdir())
    damaged = sorted(folder.path.iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    record = json.loads(call("cache", "verify", *where, status=1).stdout)
    assert [row["name"] for row in record["entries"] if row["problem"]] == [damaged.name]
    assert "by its header" in call("cache", "verify", "--dir", folder.path, status=1).stdout
    record = json.loads(call("cache", "prune", "--mb", "2", *where).stdout)
    assert (len(record["removed"]), len(record["entries"])) == (2, 1)
    assert "removed engine-" in call("cache", "clear", "--dir", folder.path).stdout
    assert list(folder.path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "0 entries" in call("cache", "ls", MXNET_TENSORRT_CACHE_DIR=str(tmp_path / "none")).stdout
    assert not (tmp_path / "none").exists()
    tmp_path.chmod(0o777)
    assert "others may write" in call("cache", "clear", "--dir", tmp_path, status=1).stderr


# -- doctor ------------------------------------------------------------------------------------


def problem(monkeypatch: pytest.MonkeyPatch, path: Path) -> str:
    monkeypatch.setenv("MXNET_TENSORRT_CACHE_DIR", str(path))
    return str(doctor_cache.cache()["problem"])


def test_doctor_on_a_good_folder(monkeypatch: pytest.MonkeyPatch, folder: Folder, tmp_path: Path) -> None:
    assert problem(monkeypatch, folder.path) == "None"
    record = doctor_cache.cache()
    assert (record["on"], record["entries"], record["folder"]) == (True, 3, str(folder.path))
    assert record["size_bytes"] > 3 << 20
    assert problem(monkeypatch, tmp_path / "new" / "folder") == "None"
    assert not (tmp_path / "new").exists(), "nothing is made"


def test_doctor_on_broken_folders(monkeypatch: pytest.MonkeyPatch, folder: Folder, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert "no folder" in problem(monkeypatch, file)
    assert "Not a directory" in problem(monkeypatch, file / "inside")
    folder.path.chmod(0o770)
    assert "chmod 700" in problem(monkeypatch, folder.path)
    folder.path.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 54321)
        assert "chown -R 54321" in problem(patch, folder.path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # what a read-only disk answers, to root too
        assert "is read-only | next step: chmod u+w" in problem(patch, folder.path)
    with monkeypatch.context() as patch:
        patch.setattr(doctor_cache, "_LITTLE_BYTES", 1 << 62)
        assert "nearly full" in problem(patch, folder.path)
    with monkeypatch.context() as patch:
        patch.setenv("MXNET_TENSORRT_CACHE_MB", "many")
        assert "CACHE_MB has a value that is not valid" in problem(patch, folder.path)


# -- build -------------------------------------------------------------------------------------


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    symbol = mlp()
    arrays = random_arrays(symbol, SHAPES)
    name = str(tmp_path / "net")
    mx.model.save_checkpoint(name, 0, symbol, {k: v for k, v in arrays.items() if k != "data"}, {})
    return name


@pytest.fixture
def rtx() -> Any:
    library = trt_build.library("tensorrt_rtx")
    try:
        return library.module()
    except EngineError as error:
        pytest.skip(str(error))


def test_gpus() -> None:
    assert parse_gpus("sm_86, SM89,12.0,sm_86") == ("8.6", "8.9", "12.0")
    assert parse_gpus("") == ()
    with pytest.raises(BuildError, match="found: ampere"):
        parse_gpus("ampere")


def test_build_without_a_gpu(rtx: Any, prefix: str, tmp_path: Path) -> None:
    where = ("--shape", "data=2,5", "--cache-dir", tmp_path / "cache", "--json")
    record = json.loads(call("build", prefix, *where).stdout.splitlines()[-1])
    (row,) = record["subgraphs"]
    assert (row["gpu"], row["nodes"], row["was_there"]) == ("ampere and later", 3, False)
    assert len(record["written"]) == 1
    record = json.loads(call("build", prefix, *where).stdout.splitlines()[-1])
    assert (record["subgraphs"][0]["was_there"], record["written"]) == (True, [])
    record = json.loads(call("build", prefix, "--gpu", "sm_86,sm_89", *where).stdout.splitlines()[-1])
    assert [row["gpu"] for row in record["subgraphs"]] == ["sm_86", "sm_89"]
    assert len(record["written"]) == 2
    # The entries are what the engine on a GPU looks for; a GPU shows that it runs them (ci/gpu/verify_cache.py).
    rows = json.loads(call("cache", "verify", "--dir", tmp_path / "cache", "--json").stdout)["entries"]
    assert {row["variant"] for row in rows} == {"ampere and later", "sm_86", "sm_89"}


def test_builds_that_cannot_be(rtx: Any, prefix: str, tmp_path: Path) -> None:
    where = ("--shape", "data=2,5", "--cache-dir", tmp_path / "cache")
    assert "compute capability 1.0" in call("build", prefix, "--gpu", "sm_10", *where, status=1).stderr
    words = call("build", prefix, "--engine", "tensorrt", *where, status=1).stderr
    assert "builds where it runs" in words
    words = call("build", prefix, "--engine", "onnxruntime", "--gpu", "sm_86", *where, status=1).stderr
    assert "--gpu has no meaning for engine onnxruntime" in words
    (tmp_path / "cache").chmod(0o777)
    assert "others may write" in call("build", prefix, *where, status=1).stderr


def test_build_for_this_cpu(prefix: str, tmp_path: Path) -> None:
    where = ("--shape", "data=2,5", "--cache-dir", tmp_path / "cache", "--engine", "onnxruntime", "--json")
    record = json.loads(call("build", prefix, *where).stdout.splitlines()[-1])
    assert (record["subgraphs"][0]["engine"], len(record["written"])) == ("onnxruntime", 1)
