"""Fixtures of the engine tests: a fake CUDA driver, a fake TensorRT."""

from __future__ import annotations

import ctypes
import gc
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mxnet_trt_property import cuda_driver, programs
from mxnet_trt_property.cuda_driver import Driver
from mxnet_trt_property.engines import registry, trt
from tests.engines import fake_tensorrt

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips `gpu` tests, with the driver's own reason, where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = cuda_driver.default().unavailable() if marked else None
    for item in marked:
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled fake CUDA driver with two devices."""
    return compile_fake(tmp_path_factory.mktemp("cuda") / "libfakecuda.so")


def compile_fake(target: Path, *options: str) -> Path:
    """Compiles the fake CUDA driver and returns `target`."""
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C compiler to build the fake CUDA driver with")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-pthread", *options, "-o", target, HERE / "fake_cuda.c"], check=True
    )
    return target


class FakeCuda(NamedTuple):
    """The fake driver, and what it counted."""

    driver: Driver
    library: ctypes.CDLL
    path: str

    def live(self) -> int:
        """Returns how many allocations and streams are not freed."""
        gc.collect()
        return int(self.library.fake_live())

    def depth(self) -> int:
        """Returns how many contexts were pushed and not popped."""
        return int(self.library.fake_depth())

    def launches(self) -> int:
        """Returns how many graphs were launched so far."""
        return int(self.library.fake_launches())

    def pins(self) -> int:
        """Returns how many host arrays are pinned in place."""
        return int(self.library.fake_pins())

    def used_on(self, device: int) -> int:
        """Returns how many bytes are allocated on a device."""
        return int(self.library.fake_used_on(device))

    def copies(self) -> int:
        """Returns how many copies were made so far."""
        return int(self.library.fake_copies())

    def sent(self) -> int:
        """Returns how many bytes were copied to a device so far, without those that a graph copied."""
        self.library.fake_sent.restype = ctypes.c_size_t
        return int(self.library.fake_sent())


@pytest.fixture
def cuda(fake_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A fake CUDA driver; fails the test that leaves memory, streams or contexts behind."""
    monkeypatch.delenv("FAKE_CUDA_MODE", raising=False)
    fake = FakeCuda(Driver(str(fake_library)), ctypes.CDLL(str(fake_library)), str(fake_library))
    fake_tensorrt.State.record = fake.library.fake_record
    fake_tensorrt.State.device = fake.library.fake_current_device
    before = fake.live()
    yield fake
    before += fake_tensorrt.State.left_behind
    fake_tensorrt.State.left_behind = 0
    fake_tensorrt.State.record = fake_tensorrt.State.device = None
    # MXNet deletes the states of operators on a thread of its own.
    end = time.monotonic() + 10
    while (fake.depth() != 0 or fake.live() != before) and time.monotonic() < end:
        time.sleep(0.01)
    assert fake.depth() == 0, "a context was pushed and not popped"
    assert fake.live() == before, "device memory, pinned memory or streams were not freed"


@pytest.fixture
def fake_module() -> str:
    """The name of an importable module with TensorRT's API that computes with ONNX Runtime."""
    return fake_tensorrt.install()


@pytest.fixture
def engine(cuda: FakeCuda, fake_module: str) -> trt.TensorRTEngine:
    """The engine over a fake library and a fake driver."""
    return trt.TensorRTEngine("tensorrt", fake_module, cuda.driver)


@pytest.fixture
def in_executors(engine: trt.TensorRTEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the fake TensorRT the engine of executors."""
    programs.clear()
    gc.collect()
    monkeypatch.setitem(registry._LOADED, "tensorrt", engine)
    monkeypatch.setenv("MXNET_TENSORRT_CACHE", "0")  # each test counts its builds
    yield
    gc.collect()
    programs.clear()
    gc.collect()
