"""The CUDA driver's control plane, against a fake driver; on a GPU against the real one."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mxnet_trt_property import cuda_driver
from mxnet_trt_property.cuda_driver import CudaError, Driver
from tests.engines.conftest import FakeCuda


def test_nothing_is_loaded_before_the_first_call() -> None:
    driver = Driver("libno-such-driver.so.1")
    reason = driver.unavailable()
    assert reason is not None
    assert "libno-such-driver.so.1" in reason
    assert "MXNET_TENSORRT_ENGINE=onnxruntime" in reason
    with pytest.raises(CudaError, match="cannot be loaded") as error:
        driver.device_count()
    assert error.value.code is None


def test_missing_function_is_named(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, target = tmp_path / "old.c", tmp_path / "libold.so"
    source.write_text("int cuInit(unsigned flags) { return 0; }\n")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, source], check=True)
    driver = Driver(str(target))
    driver.init()
    with pytest.raises(CudaError, match="has no function cuDeviceGetCount"):
        driver.device_count()


def test_no_device(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CUDA_MODE", "no_device")
    reason = cuda.driver.unavailable()
    assert reason is not None
    assert "CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected" in reason
    assert "CUDA_VISIBLE_DEVICES" in reason


def test_unknown_failure_has_the_drivers_words(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CUDA_MODE", "init_fails")
    with pytest.raises(CudaError, match="initialising the driver failed.*CUDA_ERROR_UNKNOWN: unknown error") as error:
        cuda.driver.init()
    assert error.value.code == 999


def test_out_of_memory(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CUDA_MODE", "oom")
    with cuda.driver.on_device(0), pytest.raises(CudaError, match="1024 bytes.*CUDA_ERROR_OUT_OF_MEMORY") as error:
        cuda.driver.malloc(1024)
    assert error.value.code == cuda_driver.OUT_OF_MEMORY


def test_device_properties(cuda: FakeCuda) -> None:
    assert cuda.driver.unavailable() is None
    assert cuda.driver.device_count() == 2
    assert cuda.driver.version() == (12, 8)
    info = cuda.driver.device_info(1)
    assert info.describe() == "GPU 1 (Fake H100, compute capability 9.0)"
    assert info.total_bytes == 1 << 30
    with pytest.raises(CudaError, match="opening device 7"):
        cuda.driver.device_info(7)


def test_forked_process_is_told_that_it_cannot_use_cuda(cuda: FakeCuda) -> None:
    cuda.driver.leave_behind()
    assert cuda.driver.device_count() == 2, "the parent had not used CUDA"
    with cuda.driver.on_device(0):
        pass
    cuda.driver.leave_behind()
    reason = cuda.driver.unavailable()
    assert reason is not None
    assert "forked from one that had used CUDA" in reason


def test_context_is_popped_after_an_error(cuda: FakeCuda) -> None:
    with pytest.raises(ValueError, match="mine"), cuda.driver.on_device(0):
        assert cuda.depth() == 1
        raise ValueError("mine")
    assert cuda.depth() == 0


def _round_trip(driver: Driver) -> None:
    data = np.arange(1000, dtype=np.float32)
    result = np.zeros_like(data)
    with driver.on_device(0):
        free, total = driver.mem_get_info()
        assert 0 < free <= total
        first, second = driver.malloc(data.nbytes), driver.malloc(data.nbytes)
        pinned = driver.host_alloc(data.nbytes)
        stream = driver.stream_create()
        assert first % 256 == second % 256 == 0
        ctypes.memmove(pinned, data.ctypes.data, data.nbytes)
        driver.copy_to_device(first, pinned, data.nbytes, stream)
        driver.copy_on_device(second, first, data.nbytes, stream)
        driver.copy_to_host(pinned, second, data.nbytes, stream)
        driver.synchronize(stream)
        ctypes.memmove(result.ctypes.data, pinned, data.nbytes)
        np.testing.assert_array_equal(result, data)
        data *= 2
        driver.copy_to_device(first, data.ctypes.data, data.nbytes)
        driver.copy_on_device(second, first, data.nbytes)
        driver.synchronize_device()
        driver.copy_to_host(result.ctypes.data, second, data.nbytes)
        np.testing.assert_array_equal(result, data)
        driver.stream_destroy(stream)
        driver.host_free(pinned)
        driver.free(first)
        driver.free(second)


def test_copies(cuda: FakeCuda) -> None:
    _round_trip(cuda.driver)


@pytest.mark.gpu
def test_copies_on_a_gpu() -> None:
    _round_trip(cuda_driver.default())
