"""The order in which engines are tried, the reasons of those left out, and what happens when one fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mxnet_trt_property.engines import registry, trt
from mxnet_trt_property.engines.ort import OnnxRuntimeEngine
from mxnet_trt_property.engines.registry import Device, Options
from mxnet_trt_property.errors import EngineError
from tests.engines import models
from tests.engines.conftest import FakeCuda
from tests.engines.fake_tensorrt import State
from tests.engines.models import buffer

CPU = Device("cpu", 0)
GPU = Device("gpu", 0)


@pytest.fixture
def engines(engine: trt.TensorRTEngine, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The registry with a usable fake TensorRT, a TensorRT-RTX that is not installed, and ONNX Runtime."""
    missing = trt.TensorRTEngine("tensorrt_rtx", "no_such_tensorrt_rtx", cuda.driver)
    loaded = {"tensorrt": engine, "tensorrt_rtx": missing, "onnxruntime": OnnxRuntimeEngine(cuda.driver)}
    monkeypatch.setattr(registry, "_LOADED", loaded)
    # Without what is installed here besides.
    monkeypatch.setattr(registry, "_FACTORIES", {name: registry._FACTORIES[name] for name in loaded})
    monkeypatch.setattr(registry, "_third_party_loaded", True)
    return loaded


def test_choose(engines: dict[str, Any]) -> None:
    choice = registry.choose("auto", CPU)
    assert [engine.name for engine in choice.engines] == ["tensorrt", "onnxruntime"]
    assert set(choice.reasons) == {"tensorrt_rtx"}
    assert "no_such_tensorrt_rtx" in choice.reasons["tensorrt_rtx"]
    for wanted, order in (
        ("onnxruntime", ["onnxruntime", "tensorrt"]),
        ("tensorrt_rtx", ["tensorrt", "onnxruntime"]),
        ("tensorrt", ["tensorrt", "onnxruntime"]),
    ):
        assert [engine.name for engine in registry.choose(wanted, GPU).engines] == order
    with pytest.raises(EngineError, match="no engine 'cuda'.*tensorrt, tensorrt_rtx, onnxruntime"):
        registry.choose("cuda", CPU)


def test_a_faulty_engine_does_not_stop_the_others(engines: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty:
        name = "faulty"

        def unusable(self, device: Device) -> str:
            raise RuntimeError("broken on purpose")

    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    registry.register("faulty", Faulty)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="registered already"):
        registry.register("faulty", Faulty)  # type: ignore[arg-type]
    choice = registry.choose("auto", CPU)
    assert len(choice.engines) == 2
    assert "RuntimeError: broken on purpose" in choice.reasons["faulty"]


def test_next_engine_gives_the_same_result(engines: dict[str, Any]) -> None:
    x, y = np.array([-1, 2, -3, 4], np.float32), np.zeros(4, np.float32)
    State.enqueue_fails = True
    failed = []
    for engine in registry.choose("auto", GPU).engines:
        try:
            engine.build(models.relu((4,)), Options(), GPU, "tensorrt0").runner(GPU).run([buffer(x)], [buffer(y)], 0)
            break
        except EngineError:
            failed.append(engine.name)
    assert failed == ["tensorrt"]
    np.testing.assert_array_equal(y, [0, 2, 0, 4])


def test_entry_points_are_loaded_at_first_use(
    engines: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Point:
        def __init__(self, name: str) -> None:
            self.name, self.value = name, f"{name}:Engine"

        def load(self) -> Any:
            if self.name == "theirs":
                raise ImportError("broken third-party package")
            return lambda: OnnxRuntimeEngine()

    monkeypatch.setattr(registry, "_third_party_loaded", False)
    twice = Point("theirs")
    points = [twice, Point("onnxruntime"), Point("other"), Point("auto"), twice]
    monkeypatch.setattr(registry, "_entry_points", lambda: points)
    assert registry.names() == ("tensorrt", "tensorrt_rtx", "onnxruntime", "theirs", "other")
    assert [r.getMessage().count("an engine has that name") for r in caplog.records] == [1, 1]
    for wanted in (
        "auto",
        "theirs",
    ):  # a broken engine that is asked for by name, too, leaves the program to the others
        choice = registry.choose(wanted, CPU)
        assert "ImportError: broken third-party package" in choice.reasons["theirs"]
        assert "found: onnxruntime | required: other" in choice.reasons["other"]
        assert registry.get("onnxruntime") in choice.engines
    assert registry.tolerance("tensorrt") == 2e-3
    assert registry.tolerance("onnxruntime") == 1e-5
    assert [registry.runs_on_cpu(name) for name in registry.names()] == [False, False, True, False, False]


def test_the_child_of_a_fork_leaves_engines_behind(
    engines: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Leaving:
        def __init__(self, name: str) -> None:
            self.name = name

        def leave_behind(self) -> str:
            if self.name == "fails":
                raise RuntimeError("a bug")
            return f"what {self.name} held"

    monkeypatch.setattr(registry, "_lock", registry._lock)
    engines.update({name: Leaving(name) for name in ("first", "fails", "last")})
    left = registry._leave_behind()
    assert left == ["what first held", engines["fails"], "what last held"]
    assert "Engine fails failed in the child of a fork" in caplog.text
