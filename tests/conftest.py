"""Keeps each test's environment and warnings to itself."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds how many random rows and damaged files to try, for a search that goes further than every day's."""
    parser.addoption("--fuzz-examples", type=int, help="damaged files for each reader")
    parser.addoption("--random-examples", type=int, help="random rows of each operator, of a random seed")


@pytest.fixture(scope="session")
def _homes() -> Iterator[Path]:
    """A folder for the caches of all tests."""
    with tempfile.TemporaryDirectory(prefix="mxnet-trt-tests-") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, _homes: Path) -> Iterator[None]:
    """Every test starts with TensorRT off, none of the package's variables set, and an empty cache of its own."""
    for name in list(os.environ):
        if name.startswith("MXNET_TENSORRT_") or name in ("MXNET_SUBGRAPH_BACKEND", "MXNET_USE_TENSORRT"):
            monkeypatch.delenv(name)
    # Not by a variable of the package's: `doctor` would show it. Matplotlib's cache is one that is slow to make anew.
    monkeypatch.setenv("MPLCONFIGDIR", str(_homes / "matplotlib"))
    home = _homes / f"{os.getpid()}-{next(_numbers)}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    yield
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets warnings that are given once a process be given again in each test."""
    from mxnet_trt_property import logs

    monkeypatch.setattr(logs, "_given", set())


@pytest.fixture
def built_models(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The ONNX models that the test has ONNX Runtime build, in order; none is taken from the table or the cache."""
    from mxnet_trt_property import programs
    from mxnet_trt_property.engines.ort import OnnxRuntimeEngine

    models: list[bytes] = []
    build = OnnxRuntimeEngine.build

    def recording_build(self: Any, model: bytes, *rest: Any) -> Any:
        models.append(model)
        return build(self, model, *rest)

    monkeypatch.setattr(OnnxRuntimeEngine, "build", recording_build)
    monkeypatch.setenv("MXNET_TENSORRT_CACHE", "0")
    programs.clear()
    return models
