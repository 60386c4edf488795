"""What each engine keeps, and the doors of MXNet: the second process builds nothing and computes the same."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

import mxnet_trt_property
from mxnet_trt_property import programs
from mxnet_trt_property.cache import build
from mxnet_trt_property.cache.folder import Folder
from mxnet_trt_property.engines import trt, trt_build
from mxnet_trt_property.engines.ort import OnnxRuntimeEngine
from mxnet_trt_property.engines.registry import Device, Options
from tests.cache.engine import config
from tests.engines import fake_tensorrt, models
from tests.engines.conftest import FakeCuda, cuda, engine, fake_library, fake_module  # noqa: F401  # fixtures
from tests.engines.fake_tensorrt import State
from tests.engines.models import buffer
from tests.symbols import backend, bound, conv_bn, random_arrays

CPU = Device("cpu", 0)
SHAPES = {"data": (2, 3, 8, 8)}


def get(maker: Any, folder: Path, model: bytes) -> tuple[Any, bool]:
    return build.get(maker, lambda: model, None, Options(), CPU, "node", config(folder))


def outcome(program: Any, model: Any) -> Any:
    """Returns what a program makes of fixed inputs."""
    x = np.random.default_rng(1).normal(size=(2, 3, 16, 16)).astype(np.float32)
    y = np.zeros((2, 10), np.float32)
    runner = program.runner(CPU)
    runner.run([buffer(x)], [buffer(y)], 0)
    runner.close()
    return y


# -- ONNX Runtime ------------------------------------------------------------------------------


def test_onnx_runtime(tmp_path: Path) -> None:
    model = models.convnet()
    (built, first), (read, second) = (get(OnnxRuntimeEngine(), tmp_path, model) for _ in range(2))
    assert (first, second) == (False, True)
    np.testing.assert_array_equal(outcome(read, model), outcome(built, model))
    (file,) = tmp_path.iterdir()
    file.unlink()  # as another process may, while the weights are mapped
    np.testing.assert_array_equal(outcome(read, model), outcome(built, model))


def test_onnx_runtime_that_knows_no_folder_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions before 1.21 want a file."""
    monkeypatch.setattr("mxnet_trt_property.engines.ort_packing.FOLDER_OPTION", "session.unknown_option")
    model = models.convnet()
    (built, _), (read, loaded) = (get(OnnxRuntimeEngine(), tmp_path, model) for _ in range(2))
    assert loaded
    np.testing.assert_array_equal(outcome(read, model), outcome(built, model))
    assert len(list(tmp_path.iterdir())) == 1


def test_another_cpu_is_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, kept in (("one", 1), ("another", 2), ("", 2)):
        monkeypatch.setattr("mxnet_trt_property.cache.keys.cpu", lambda words=words: words)
        assert get(OnnxRuntimeEngine(), tmp_path, models.convnet())[1] is False
        assert len(list(tmp_path.iterdir())) == kept


def test_a_disk_that_fills_while_onnx_runtime_writes(tmp_path: Path) -> None:
    """ONNX Runtime does not tell of it; the program runs all the same, and nothing damaged is kept."""
    program = f"""
import logging, resource, sys
logging.basicConfig(format="%(message)s", level=logging.WARNING)
from pathlib import Path
import numpy as np
from mxnet_trt_property.engines.ort import OnnxRuntimeEngine
from tests.cache.test_engines import get
from tests.engines import models
from tests.engines.models import buffer
model = models.resnet18()
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
program, loaded = get(OnnxRuntimeEngine(), Path({str(tmp_path / "cache")!r}), model)
x, y = np.ones((1, 3, 224, 224), np.float32), np.zeros((1, 1000), np.float32)
program.runner(__import__("tests.cache.test_engines").cache.test_engines.CPU).run([buffer(x)], [buffer(y)], 0)
print(loaded, bool(np.isfinite(y).all() and y.any()))
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "False True", done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


IN_A_SMALL_TMPFS = """
import logging, os, sys
logging.basicConfig(format="%(message)s", level=logging.WARNING)
import mxnet_trt_property
import mxnet as mx
from mxnet_trt_property import programs
from tests.models import zoo
from tests.symbols import backend, conv_bn, bound, relative_error, taken_nodes
folder = sys.argv[1]
assert os.statvfs(folder).f_blocks * os.statvfs(folder).f_frsize == 8 << 20
net = zoo.vision("resnet18_v2", batch=1, size=32)  # 45 MB of weights
data = mx.nd.ones(net.data_shapes["data"])
outputs = []
for name in ("NONE", "TensorRT", "TensorRT"):
    with backend(name, MXNET_TENSORRT_CACHE_DIR=folder + "/cache", MXNET_TENSORRT_CACHE="1"):
        executor = net.symbol.simple_bind(mx.cpu(), grad_req="null", **net.data_shapes)
        executor.copy_params_from(net.arg_params, net.aux_params)
        outputs.append(executor.forward(is_train=False, data=data)[0].asnumpy())
    assert name == "NONE" or taken_nodes(executor)
    del executor
    programs.clear()
    print([file.name.split("-")[0] for file in os.scandir(folder + "/cache")] if name != "NONE" else "stock")
print(max(relative_error(found, outputs[0]) for found in outputs[1:]) < 1e-4)
shapes = {"data": (2, 3, 8, 8)}
with backend("TensorRT", MXNET_TENSORRT_CACHE_DIR=folder + "/cache", MXNET_TENSORRT_CACHE="1"):
    bound(conv_bn(), "TensorRT", shapes).forward()[0].wait_to_read()  # there is room for this one
print(len(os.listdir(folder + "/cache")) > 0)
"""


def test_a_full_tmpfs(tmp_path: Path) -> None:
    """The disk of the cache is full: results are right, nothing half written is left, and what fits is kept."""
    mount = 'mount -t tmpfs -o size=8m tmpfs "$0" && exec "$@"'
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets no process mount a file system of its own")
    root = Path(__file__).resolve().parents[2]
    command = [*alone, sys.executable, "-c", IN_A_SMALL_TMPFS, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["stock", "[]", "[]", "True", "True"], done.stderr
    told = [line for line in done.stderr.splitlines() if "cannot be kept in the cache" in line]
    assert len(told) == 1, done.stderr
    assert "make room on the cache's disk, or set MXNET_TENSORRT_CACHE=0" in done.stderr


# -- TensorRT ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _title() -> Iterator[None]:
    """Gives the fake library, of which a process has one, its name back."""
    library = trt_build.library(fake_tensorrt.install())
    before = library.title
    yield
    library.title = before


@pytest.fixture
def as_rtx(engine: trt.TensorRTEngine, monkeypatch: pytest.MonkeyPatch) -> trt.TensorRTEngine:  # noqa: F811
    """The fake library under the name of TensorRT-RTX."""
    monkeypatch.setattr(engine._library, "title", "TensorRT-RTX")
    return engine


def again(cuda: FakeCuda, folder: Path, title: str) -> tuple[Any, bool]:  # noqa: F811
    """Returns what a new process would get."""
    new = trt.TensorRTEngine("tensorrt", fake_tensorrt.install(), cuda.driver)
    new._library.title = title
    return get(new, folder, models.convnet())


def test_plan_and_kernels_of_tensorrt_rtx(cuda: FakeCuda, as_rtx: trt.TensorRTEngine, tmp_path: Path) -> None:  # noqa: F811
    program, loaded = get(as_rtx, tmp_path, models.convnet())
    assert not loaded
    expected = outcome(program, None)
    assert (State.compiled, State.timed) == (1, 0)
    kinds = sorted(file.name.partition("-")[0] for file in tmp_path.iterdir())
    assert kinds == ["engine", "kernels"]
    program.close()
    program, loaded = again(cuda, tmp_path, "TensorRT-RTX")
    np.testing.assert_array_equal(outcome(program, None), expected)
    assert (loaded, State.plans, State.compiled) == (True, 0, 0), "nothing was built and nothing compiled"
    program.close()


@pytest.mark.parametrize("what", ["damaged", "refused"])
def test_kernels_that_cannot_be_used(
    cuda: FakeCuda,  # noqa: F811
    as_rtx: trt.TensorRTEngine,
    tmp_path: Path,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program, _ = get(as_rtx, tmp_path, models.convnet())
    expected = outcome(program, None)
    program.close()
    (file,) = tmp_path.glob("kernels-*")
    if what == "damaged":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    else:
        monkeypatch.setattr(fake_tensorrt.IRuntimeCache, "deserialize", lambda self, data: False)
    program, loaded = again(cuda, tmp_path, "TensorRT-RTX")
    np.testing.assert_array_equal(outcome(program, None), expected)
    assert (loaded, State.compiled) == (True, 1)
    program.close()
    monkeypatch.undo()
    program, _ = again(cuda, tmp_path, "TensorRT-RTX")
    outcome(program, None)
    assert State.compiled == 0, "they were written anew"
    program.close()


def test_plan_and_timings_of_tensorrt(cuda: FakeCuda, engine: trt.TensorRTEngine, tmp_path: Path) -> None:  # noqa: F811
    engine._library.title = "TensorRT"
    program, _ = get(engine, tmp_path, models.convnet())
    assert State.timed == 1
    program.close()
    (plan,) = tmp_path.glob("engine-*")
    plan.unlink()
    program, loaded = again(cuda, tmp_path, "TensorRT")
    assert (loaded, State.plans, State.timed) == (False, 1, 0), "built again, with the times of the first build"
    program.close()
    program, loaded = again(cuda, tmp_path, "TensorRT")
    assert (loaded, State.plans) == (True, 0)
    program.close()


def test_a_plan_that_the_gpu_refuses(cuda: FakeCuda, as_rtx: trt.TensorRTEngine, tmp_path: Path) -> None:  # noqa: F811
    program, _ = get(as_rtx, tmp_path, models.convnet())
    program.close()
    (file,) = tmp_path.glob("engine-*")
    folder = Folder(tmp_path, 1 << 30)
    kept = folder.load("engine", bytes.fromhex(file.name.split("-")[1].split(".")[0]), True)
    assert kept is not None
    folder.store("engine", bytes.fromhex(file.name.split("-")[1].split(".")[0]), kept.meta, b"", b"not a plan")
    program, loaded = again(cuda, tmp_path, "TensorRT-RTX")
    assert not loaded
    assert outcome(program, None).any()
    program.close()


def test_which_gpus_an_engine_may_be_for(as_rtx: trt.TensorRTEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_rtx.cache_variants(CPU) == ("ampere and later", "sm_90")
    info = as_rtx._driver.device_info(0)
    monkeypatch.setattr(
        type(as_rtx._driver), "device_info", lambda self, index: info.__class__(0, "T4", (7, 5), info.total_bytes)
    )
    assert as_rtx.cache_variants(CPU) == ("sm_75",)
    monkeypatch.setattr(as_rtx._library, "title", "TensorRT")
    (words,) = as_rtx.cache_variants(CPU)
    assert "T4" in words, "TensorRT's own plans are for one kind of GPU and driver"


# -- MXNet's doors -----------------------------------------------------------------------------


def forward(seed: int = 0) -> tuple[Any, Any]:
    """Runs the network in what counts as a new process: nothing is left of the programs built before."""
    programs.clear()
    executor = bound(conv_bn(), "TensorRT", SHAPES, seed)
    return executor, executor.forward(is_train=False)[0].asnumpy()


def totals() -> tuple[int, int]:
    reports = mxnet_trt_property.reports()
    return sum(r.builds for r in reports), sum(r.loads for r in reports)


def test_the_second_process_builds_nothing(caplog: pytest.LogCaptureFixture) -> None:
    stock = bound(conv_bn(), "NONE", SHAPES).forward(is_train=False)[0].asnumpy()
    first, expected = forward()
    assert totals() == (1, 0)
    del first
    with caplog.at_level(logging.INFO):
        second, found = forward()
    assert totals() == (0, 1)
    assert "engine read from the cache in" in caplog.text
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, stock, rtol=1e-5, atol=1e-6)
    # A new value of a weight is another engine, and is seen.
    arrays = random_arrays(conv_bn(), SHAPES)
    second.arg_dict["fc_weight"][:] = arrays["fc_weight"] * 2
    with backend("NONE"):
        reference = bound(conv_bn(), "NONE", SHAPES)
    reference.arg_dict["fc_weight"][:] = arrays["fc_weight"] * 2
    changed = second.forward(is_train=False)[0].asnumpy()
    np.testing.assert_allclose(changed, reference.forward(is_train=False)[0].asnumpy(), rtol=1e-5, atol=1e-6)
    assert totals() == (1, 1)


def test_half_precision_by_the_first_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first inputs say is part of the key: an engine for small values must not serve large ones."""
    monkeypatch.setenv("MXNET_TENSORRT_PRECISION", "fp16")
    seen = []
    for scale in (1.0, 1.0, 3e4):
        programs.clear()
        executor = bound(conv_bn(), "TensorRT", SHAPES)
        executor.arg_dict["data"][:] = executor.arg_dict["data"] * scale
        assert np.isfinite(executor.forward(is_train=False)[0].asnumpy()).all()
        seen.append(totals())
        del executor
    assert seen == [(1, 0), (0, 1), (1, 0)]


def test_options_of_a_call(tmp_path: Path) -> None:
    symbol, arrays = conv_bn(), random_arrays(conv_bn(), SHAPES)
    with backend("TensorRT"):
        made = symbol.optimize_for("TensorRT", cache_dir=str(tmp_path / "mine"), cache_mb="64")
    executor = made.bind(mx.cpu(), {k: arrays[k] for k in made.list_arguments()}, grad_req="null",
                         aux_states={k: arrays[k] for k in made.list_auxiliary_states()})  # fmt: skip
    executor.forward(is_train=False)[0].wait_to_read()
    assert len(list((tmp_path / "mine").iterdir())) == 1


def test_compiled_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_CACHE_DIR", str(tmp_path))
    arrays = random_arrays(conv_bn(), SHAPES)
    names = conv_bn().list_auxiliary_states()
    args = {k: v for k, v in arrays.items() if k not in (*names, "data", "softmax_label")}
    results = []
    for _ in range(2):
        model = mxnet_trt_property.compile(conv_bn(), args, {k: arrays[k] for k in names}, SHAPES, engine="onnxruntime")
        results.append(model(arrays["data"]).asnumpy())
        assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(*results)
