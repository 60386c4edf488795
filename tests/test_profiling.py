"""What `mx.profiler` shows of TensorRT nodes, and that nothing is recorded, or called, while it is off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mxnet as mx
import pytest

from mxnet_trt_property import profiling, programs
from mxnet_trt_property.engines import registry, trt
from tests.engines import conftest as engine_fixtures
from tests.symbols import bound, conv_bn, taken_nodes

cuda, fake_library, fake_module = engine_fixtures.cuda, engine_fixtures.fake_library, engine_fixtures.fake_module

SHAPE = (2, 3, 8, 8)


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MXNET_TENSORRT_ENGINE", "onnxruntime")
    programs.clear()
    mx.profiler.set_config(profile_all=True, aggregate_stats=True, filename=str(tmp_path / "profile.json"))
    mx.profiler.dumps(reset=True)
    yield
    mx.profiler.set_state("stop")
    mx.profiler.dumps(reset=True)


def forwards(executor: Any, count: int) -> None:
    for _ in range(count):
        executor.forward(is_train=False)[0].wait_to_read()


def recorded(domain: str = profiling.DOMAIN) -> dict[str, int]:
    """Returns how often each section of a domain was recorded since the last call."""
    mx.profiler.set_state("stop")
    found = json.loads(mx.profiler.dumps(reset=domain == profiling.DOMAIN, format="json"))
    rows = found["Time"].get(domain, {})
    assert all(row["Max"] >= row["Min"] >= 0 for row in rows.values())
    return {name: row["Count"] for name, row in rows.items()}


def test_sections_of_a_bind_and_its_forwards(capfd: pytest.CaptureFixture[str]) -> None:
    mx.profiler.set_state("run")
    executor = bound(conv_bn(), "TensorRT", {"data": SHAPE})
    assert taken_nodes(executor)
    forwards(executor, 3)
    assert recorded() == {
        "partition a graph": 1,
        "convert tensorrt0": 1,
        "weights tensorrt0": 1,
        "build tensorrt0": 1,
        "forward tensorrt0": 3,
    }
    assert capfd.readouterr().out == ""


def test_nothing_is_recorded_while_the_profiler_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.profiler, "Task", lambda *arguments: pytest.fail("a call to MXNet's profiler"))
    executor = bound(conv_bn(), "TensorRT", {"data": SHAPE})
    forwards(executor, 2)
    mx.profiler.set_state("run")
    mx.profiler.set_state("stop")
    forwards(executor, 2)
    assert recorded() == {}


def test_the_profiler_of_a_server_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    watched = profiling.watched(lambda state, profile_process: calls.append((state, profile_process)))
    watched("run", "server")
    assert not profiling.is_running()
    watched("run")
    assert profiling.is_running()
    watched()
    assert not profiling.is_running()
    assert calls == [("run", "server"), ("run", "worker"), ("stop", "worker")]


def test_captured_runs_make_no_section(
    cuda: engine_fixtures.FakeCuda, fake_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._LOADED, "tensorrt", trt.TensorRTEngine("tensorrt", fake_module, cuda.driver))
    monkeypatch.setenv("MXNET_TENSORRT_ENGINE", "tensorrt")
    mx.profiler.set_state("run")
    executor = bound(conv_bn(), "TensorRT", {"data": SHAPE})
    forwards(executor, 1)
    first = recorded()
    sections = {"build", "capture", "copy in", "run", "copy out", "forward"}
    assert {f"{name} tensorrt0" for name in sections} <= set(first)
    launches = cuda.launches()
    mx.profiler.set_state("run")
    forwards(executor, 4)
    assert cuda.launches() == launches + 4
    assert recorded("operator")["[_TensorRT]"] == 4, "MXNet itself sees them"
    assert recorded() == {}, "captured runs need no Python, and none is there to record them"
    del executor
    programs.clear()
