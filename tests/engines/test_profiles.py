"""Programs that serve a range of shapes: ONNX Runtime, and TensorRT over a fake library and driver."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mxnet_trt_property.engines import trt
from mxnet_trt_property.engines.ort import OnnxRuntimeEngine
from mxnet_trt_property.engines.registry import Device, Options, Shapes
from mxnet_trt_property.errors import EngineError
from tests.engines.conftest import FakeCuda
from tests.engines.fake_tensorrt import State
from tests.engines.models import buffer

CPU = Device("cpu", 0)
PROFILE = (((1, 3), (4, 3), (8, 3)),)
OPTIONS = Options(profile=PROFILE)


def doubled() -> bytes:
    """Returns x (size0, 3) -> x + x, with the size in its name."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("size0", 3)) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"], name="add")], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def shapes(count: int) -> Shapes:
    return Shapes(((count, 3),), ((count, 3),))


def run(runner: Any, count: int) -> None:
    x = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    y = np.zeros_like(x)
    for _ in range(3):
        y[:] = 0
        runner.run([buffer(x)], [buffer(y)], 0)
        np.testing.assert_array_equal(y, 2 * x)
        x += 1


@pytest.fixture(params=["onnxruntime", "tensorrt"])
def any_engine(request: pytest.FixtureRequest) -> Any:
    return OnnxRuntimeEngine() if request.param == "onnxruntime" else request.getfixturevalue("engine")


def test_one_program_runs_all_sizes(any_engine: Any) -> None:
    assert any_engine.takes_profiles
    program = any_engine.build(doubled(), OPTIONS, CPU, "tensorrt0")
    runners = {count: program.runner_for(CPU, shapes(count)) for count in (1, 4, 7, 8)}
    for count in (8, 1, 7, 4, 1):
        run(runners[count], count)
    with pytest.raises(EngineError, match="tensorrt0.*'x'"):
        run(program.runner_for(CPU, shapes(4)), 5)
    with pytest.raises(EngineError, match=r"cannot have this shape.*\(2, 4\).*required: \(-1, 3\)"):
        program.runner_for(CPU, Shapes(((2, 4),), ((2, 3),)))


def test_a_model_of_unknown_sizes_without_a_profile_is_refused(any_engine: Any) -> None:
    with pytest.raises(EngineError, match="tensorrt0"):
        any_engine.build(doubled(), Options(), CPU, "tensorrt0")


def test_captured_runs_are_each_size_s_own(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    program = engine.build(doubled(), OPTIONS, CPU, "tensorrt0")
    small, large = (program.runner_for(CPU, shapes(count)) for count in (2, 8))
    run(small, 2)
    run(large, 8)
    before = cuda.launches()
    run(small, 2)
    run(large, 8)
    assert cuda.launches() - before == 6
    assert State.builds == 1


def test_a_shape_outside_of_the_profile_has_the_librarys_words(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    program = engine.build(doubled(), OPTIONS, CPU, "tensorrt0")
    before = cuda.live()
    with pytest.raises(EngineError, match=r"input 'x' of shape \(9, 3\).*outside of the profile"):
        program.runner_for(CPU, shapes(9))
    with pytest.raises(EngineError, match="'y' has another shape"):
        program.runner_for(CPU, Shapes(((2, 3),), ((3, 3),)))
    gc.collect()
    assert cuda.live() == before
    assert State.live_contexts == 0


def test_tensorrt_builds_it_for_real() -> None:
    rtx = trt.library("tensorrt_rtx")
    try:
        rtx.module()
    except EngineError as error:
        pytest.skip(str(error))
    plan = rtx.build(doubled(), "tensorrt0", profile=PROFILE)
    assert plan.inputs[0].shape == plan.outputs[0].shape == (-1, 3)
    with pytest.raises(EngineError, match="cannot build tensorrt0.*profile"):
        rtx.build(doubled(), "tensorrt0", profile=(((4, 3), (2, 3), (1, 3)),))
