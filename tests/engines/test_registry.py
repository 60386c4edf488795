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


def test_entry_points_are_loaded_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        def __init__(self, name: str) -> None:
            self.name, self.value = name, f"{name}:Engine"

        def load(self) -> Any:
            raise ImportError("broken third-party package")

    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    monkeypatch.setattr(registry, "_LOADED", dict(registry._LOADED))
    monkeypatch.setattr(registry, "_third_party_loaded", False)
    monkeypatch.setattr(registry, "_entry_points", lambda: [Point("theirs"), Point("onnxruntime")])
    assert registry.names() == ("tensorrt", "tensorrt_rtx", "onnxruntime", "theirs")
    choice = registry.choose("auto", CPU)
    assert "ImportError: broken third-party package" in choice.reasons["theirs"]
    assert registry.get("onnxruntime") in choice.engines
