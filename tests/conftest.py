"""Keeps each test's environment and warnings to itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the number of random rows of each operator, for a search that goes further than every day's."""
    parser.addoption("--random-examples", type=int, help="random rows of each operator, of a random seed")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test starts with TensorRT off and with none of the package's variables set."""
    for name in list(os.environ):
        if name.startswith("MXNET_TENSORRT_") or name in ("MXNET_SUBGRAPH_BACKEND", "MXNET_USE_TENSORRT"):
            monkeypatch.delenv(name)
    yield


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets warnings that are given once a process be given again in each test."""
    from mxnet_trt_property import logs

    monkeypatch.setattr(logs, "_given", set())


@pytest.fixture
def built_models(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The ONNX models that the test has ONNX Runtime build, in order; none is taken from the table of programs."""
    from mxnet_trt_property import programs
    from mxnet_trt_property.engines.ort import OnnxRuntimeEngine

    models: list[bytes] = []
    build = OnnxRuntimeEngine.build

    def recording_build(self: Any, model: bytes, *rest: Any) -> Any:
        models.append(model)
        return build(self, model, *rest)

    monkeypatch.setattr(OnnxRuntimeEngine, "build", recording_build)
    programs.clear()
    return models
