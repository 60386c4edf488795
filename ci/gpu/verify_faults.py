"""Verifies real faults on a GPU machine: no memory, no driver, a lost GPU, Ctrl-C; right results, and no crash.

usage: python ci/gpu/verify_faults.py --out DIR [--model resnet18_v2]

Each case is a process of its own, since some leave CUDA unusable; each compares with MXNet's results on the CPU (2e-3:
TF32) and must end with status 0. DIR/faults.json has all, DIR/faults-CASE.log what each process logged.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mxnet_trt_property  # noqa: E402, F401 - its shims come before mxnet
from ci.gpu.checks import Checks  # noqa: E402
from mxnet_trt_property import cuda_driver, programs, progress  # noqa: E402

TOLERANCE = 2e-3

os.environ["MXNET_TENSORRT_CACHE"] = "0"  # an engine that is read from disk has no build to interrupt

# Writes to address 8, which no allocation has: CUDA_ERROR_ILLEGAL_ADDRESS, from which a context never recovers.
BAD_KERNEL = b""".version 7.0
.target sm_75
.address_size 64
.visible .entry bad()
{
    .reg .u64 %address;
    .reg .u32 %value;
    mov.u64 %address, 8;
    mov.u32 %value, 1;
    st.global.u32 [%address], %value;
    ret;
}
\0"""


class Warned(logging.Handler):
    """Keeps the warnings of the package."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one."""
        self.texts.append(record.getMessage())


class Case:
    """One process: a network, MXNet's results, and what was warned of."""

    def __init__(self, model: str) -> None:
        import mxnet as mx
        import numpy as np

        from tests.models import zoo
        from tests.symbols import backend

        self.mx, self.np, self.backend = mx, np, backend
        self.warned = Warned()
        log = logging.getLogger("mxnet_trt_property")
        log.setLevel(logging.INFO)
        log.addHandler(self.warned)
        log.addHandler(logging.StreamHandler())
        self.net = zoo.vision(model, size=224)
        self.data = mx.nd.array(np.random.default_rng(5).standard_normal(self.net.data_shapes["data"]))
        self.expected = self.bind("NONE").forward(data=self.data)[0].asnumpy()

    def bind(self, name: str = "TensorRT", **variables: str) -> Any:
        """Returns an executor with the network's weights."""
        with self.backend(name, **variables):
            executor = self.net.symbol.simple_bind(self.mx.cpu(), grad_req="null", **self.net.data_shapes)
        executor.copy_params_from(self.net.arg_params, self.net.aux_params)
        return executor

    def run(self, executor: Any, times: int = 3) -> str:
        """Checks forwards and returns the engine."""
        for _ in range(times):
            found = executor.forward(data=self.data)[0].asnumpy()
            error = float(self.np.linalg.norm(found - self.expected) / self.np.linalg.norm(self.expected))
            assert error <= TOLERANCE, f"relative error {error:.1e}"
        (session,) = executor.tensorrt.sessions
        assert not executor.tensorrt.use_twin, "MXNet ran it"
        return str(session.report.engine)

    def details(self, **more: Any) -> dict[str, Any]:
        """Returns what the parent shows."""
        return {"warnings": len(self.warned.texts), **more, "first_warning": "".join(self.warned.texts[:1])[:600]}

    # -- the cases -----------------------------------------------------------------------------

    def no_memory(self) -> dict[str, Any]:
        """Device memory is full when the engine is to be loaded; later there is some again."""
        first = self.bind()
        assert self.run(first).startswith("tensorrt")
        del first
        gc.collect()
        programs.clear()
        gc.collect()
        with full_device() as filled:
            during = self.run(self.bind())
        assert during == "onnxruntime", during
        assert len(self.warned.texts) == 1, self.warned.texts
        after = self.run(self.bind())
        assert after.startswith("tensorrt"), after
        assert len(self.warned.texts) == 1, self.warned.texts
        return self.details(filled_gb=round(filled / 1e9, 1), during=during, after=after)

    def no_memory_at_first(self) -> dict[str, Any]:
        """Device memory is full when the GPU is first asked whether it accepts engines."""
        with full_device() as filled:
            during = self.run(self.bind())
        assert during == "onnxruntime", during
        after = self.run(self.bind())
        assert after.startswith("tensorrt"), after
        return self.details(filled_gb=round(filled / 1e9, 1), during=during, after=after)

    def no_device(self) -> dict[str, Any]:
        """CUDA_VISIBLE_DEVICES hides the GPU."""
        engine = self.run(self.bind())
        assert engine == "onnxruntime", engine
        reason = cuda_driver.default().unavailable() or ""
        assert "next step: check that nvidia-smi lists the GPU" in reason, reason
        return self.details(reason=reason)

    def no_driver(self) -> dict[str, Any]:
        """The driver's library is not there."""
        cuda_driver.default()._path = "libcuda-not-here.so.1"
        engine = self.run(self.bind())
        assert engine == "onnxruntime", engine
        return self.details(reason=cuda_driver.default().unavailable() or "")

    def lost_gpu(self) -> dict[str, Any]:
        """A kernel of somebody else's writes where it must not: CUDA is lost for the process."""
        executor = self.bind()
        assert self.run(executor).startswith("tensorrt")
        status = lose_gpu()
        assert status == 700, f"the bad kernel ended with {status}"
        during = self.run(executor)
        assert during == "onnxruntime", during
        assert len(self.warned.texts) == 1, self.warned.texts
        after = self.run(self.bind())
        assert after == "onnxruntime", after
        return self.details(during=during, after=after)

    def lost_gpu_raised(self) -> dict[str, Any]:
        """The same with MXNET_TENSORRT_ON_ERROR=raise: an error in words."""
        with self.backend("TensorRT", MXNET_TENSORRT_ON_ERROR="raise"):
            executor = self.bind()
            self.run(executor)
            lose_gpu()
            try:
                executor.forward(data=self.data)[0].wait_to_read()
            except self.mx.MXNetError as error:
                text = str(error)
            else:
                raise AssertionError("no error")
        assert "CUDA_ERROR_ILLEGAL_ADDRESS" in text, text
        assert "next step: " in text, text
        return self.details(error=text.splitlines()[0][:400])

    def interrupted(self) -> dict[str, Any]:
        """Ctrl-C during the build of a forward; the parent sends the signal."""
        stock = progress.Progress.step
        said: list[bool] = []

        def step(report: Any, phase: str, index: int) -> None:
            if not said:
                said.append(True)
                print("building", flush=True)
                time.sleep(1)
            stock(report, phase, index)

        progress.Progress.step = step  # type: ignore[method-assign]
        executor = self.bind(MXNET_TENSORRT_REFIT="never")
        try:
            executor.forward(data=self.data)[0].wait_to_read()
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError(f"no KeyboardInterrupt; building: {said}")
        assert executor.tensorrt.sessions[0].report.builds == 0
        engine = self.run(executor)
        assert engine.startswith("tensorrt"), engine
        assert not self.warned.texts, self.warned.texts
        return self.details(builds=executor.tensorrt.sessions[0].report.builds)


CASES = ("no_memory", "no_memory_at_first", "no_device", "no_driver", "lost_gpu", "lost_gpu_raised", "interrupted")


@contextlib.contextmanager
def full_device() -> Iterator[int]:
    """Fills the memory of device 0 for a block; gives how many bytes were taken."""
    driver = cuda_driver.default()
    taken: list[int] = []
    total = 0
    with driver.on_device(0):
        size = 8 << 30
        while size >= 64 << 10:
            try:
                taken.append(driver.malloc(size))
                total += size
            except cuda_driver.CudaError:
                size //= 2
    try:
        yield total
    finally:
        with driver.on_device(0):
            for address in taken:
                driver.free(address)


def lose_gpu() -> int:
    """Runs the bad kernel on device 0 and returns what waiting for it returns."""
    driver = cuda_driver.default()
    library = ctypes.CDLL(cuda_driver.LIBRARY)
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    with driver.on_device(0):
        driver.check(library.cuModuleLoadData(ctypes.byref(module), BAD_KERNEL), "loading the bad kernel")
        driver.check(library.cuModuleGetFunction(ctypes.byref(function), module, b"bad"), "finding the bad kernel")
        launch = library.cuLaunchKernel
        launch.argtypes = [ctypes.c_void_p, *[ctypes.c_uint] * 7, *[ctypes.c_void_p] * 3]
        driver.check(launch(function, 1, 1, 1, 1, 1, 1, 0, None, None, None), "launching the bad kernel")
        return int(library.cuCtxSynchronize())


def run_case(name: str, model: str, out: Path) -> dict[str, Any]:
    """Runs one case in a process and returns its details."""
    variables = {"CUDA_VISIBLE_DEVICES": ""} if name == "no_device" else {}
    command = [sys.executable, str(Path(__file__).resolve()), "--case", name, "--model", model, "--out", str(out)]
    with open(out / f"faults-{name}.log", "w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **variables}
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "building\n":
                time.sleep(0.2)
                process.send_signal(signal.SIGINT)
        status = process.wait(timeout=60)
    results = [line for line in lines if line.startswith("{")]
    tail = (out / f"faults-{name}.log").read_text()[-1500:]
    assert results, f"status {status}, no result: {tail}"
    details: dict[str, Any] = json.loads(results[-1])
    assert status == 0, f"status {status} after {details}: {tail}"
    return details


def main() -> int:
    """Runs one case, or all of them each in a process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="resnet18_v2")
    parser.add_argument("--case", choices=CASES)
    arguments = parser.parse_args()
    if arguments.case:
        details = getattr(Case(arguments.model), arguments.case)()
        print(json.dumps(details), flush=True)
        return 0
    from mxnet_trt_property.cli import bench_machine

    checks = Checks(arguments.out / "faults.json", {**bench_machine.describe(), "model": arguments.model})
    for name in CASES:
        checks.run(name, lambda name=name: run_case(name, arguments.model, arguments.out))  # type: ignore[misc]
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
