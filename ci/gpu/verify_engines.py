"""Verifies the TensorRT engines on a machine with a GPU, through the package's own classes; needs no network.

    python ci/gpu/verify_engines.py --out DIR [--engine tensorrt_rtx] [--device 0] [--repeats 200]

Each check prints one line; DIR/engines.json has the details. Results are compared with ONNX Runtime on the CPU where
it is installed, otherwise with the engine's first result only. Exit status 1 if a check failed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mxnet_trt_property import cuda_driver  # noqa: E402
from mxnet_trt_property.engines import registry  # noqa: E402
from mxnet_trt_property.engines.registry import Buffer, Device, Options  # noqa: E402
from mxnet_trt_property.errors import EngineError  # noqa: E402
from tests.engines import models  # noqa: E402

TOLERANCE = 2e-3  # relative error in the 2-norm; TF32 is always on in TensorRT-RTX
LEAK_BYTES = 8 << 20


def element_type(kind: int) -> Any:
    """Returns the NumPy type of an ONNX element type."""
    return np.dtype({1: "float32", 7: "int64", 9: "bool", 10: "float16"}[kind])


class Case:
    """A model, random inputs for it, and ONNX Runtime's results where it is installed."""

    def __init__(self, name: str, model: bytes) -> None:
        import onnx

        self.name = name
        self.model = model
        graph = onnx.load_from_string(model).graph
        rng = np.random.default_rng(7)
        self.inputs = [self._random(rng, value) for value in graph.input]
        self._shapes = [self._shape(value) for value in graph.output]
        self._dtypes = [element_type(v.type.tensor_type.elem_type) for v in graph.output]
        self.expected: Optional[list[Any]] = None
        reference = registry.get("onnxruntime")
        if reference.unusable(Device("cpu", 0)) is None:
            outputs = self.outputs()
            program = reference.build(model, Options(), Device("cpu", 0), name)
            program.runner(Device("cpu", 0)).run(buffers(self.inputs), buffers(outputs), 0)
            self.expected = outputs

    @staticmethod
    def _shape(value: Any) -> tuple[int, ...]:
        return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)

    def _random(self, rng: Any, value: Any) -> Any:
        dtype = element_type(value.type.tensor_type.elem_type)
        data = rng.normal(1, 1, self._shape(value))
        return np.ascontiguousarray(data > 1 if dtype == np.bool_ else data).astype(dtype).reshape(self._shape(value))

    def outputs(self) -> list[Any]:
        """Returns new arrays for the outputs, filled with a value that no model returns."""
        return [np.full(shape, 99).astype(dtype) for shape, dtype in zip(self._shapes, self._dtypes)]

    def error(self, outputs: Sequence[Any]) -> float:
        """Returns the largest relative error of the outputs; keeps them as the reference if there is none."""
        if self.expected is None:
            self.expected = [array.copy() for array in outputs]
        worst = 0.0
        for expected, found in zip(self.expected, outputs):
            if not np.all(np.isfinite(found.astype(np.float64))):
                return float("inf")
            distance = np.linalg.norm((found.astype(np.float64) - expected).ravel())
            worst = max(worst, float(distance / max(float(np.linalg.norm(expected.astype(np.float64).ravel())), 1e-9)))
        return worst


def buffers(arrays: Sequence[Any]) -> list[Buffer]:
    """Returns the buffers of NumPy arrays."""
    return [Buffer(int(array.ctypes.data), tuple(array.shape), array.dtype) for array in arrays]


def cases() -> list[Case]:
    """Returns the models to try, from one node to a residual network."""
    return [
        Case("relu", models.relu()),
        Case("scalar", models.relu(())),
        Case("empty", models.relu((0, 3))),
        Case("int64", models.identity((5,), 7)),
        Case("bool", models.identity((5,), 9)),
        Case("float16", models.relu((4, 8), 10)),
        Case("unused input", models.two_by_two()),
        Case("convnet", models.convnet()),
        Case("resnet18", models.resnet18()),
    ]


class DeviceArrays:
    """Copies of host arrays in device memory, each at an offset from an aligned address."""

    def __init__(self, driver: cuda_driver.Driver, arrays: Sequence[Any], offset_bytes: int = 0) -> None:
        self._driver = driver
        self._arrays = arrays
        self._memory = [driver.malloc(array.nbytes + 512) for array in arrays]
        self.buffers = []
        for array, address in zip(arrays, self._memory):
            self.buffers.append(Buffer(address + offset_bytes, tuple(array.shape), array.dtype))
            if array.nbytes:
                driver.copy_to_device(address + offset_bytes, array.ctypes.data, array.nbytes)

    def read(self) -> None:
        """Copies the contents back into the host arrays."""
        for array, buffer in zip(self._arrays, self.buffers):
            if array.nbytes:
                self._driver.copy_to_host(array.ctypes.data, buffer.address, array.nbytes)

    def free(self) -> None:
        """Frees the device memory."""
        for address in self._memory:
            self._driver.free(address)


class Verification:
    """Runs the checks and records them."""

    def __init__(self, engine: str, device: int, repeats: int) -> None:
        self.driver = cuda_driver.default()
        self.engine = registry.get(engine)
        self.host = Device("cpu", 0, device)
        self.gpu = Device("gpu", device, device)
        self.repeats = repeats
        self.records: list[dict[str, Any]] = []
        self.programs: dict[str, Any] = {}

    def check(self, name: str, function: Callable[[], dict[str, Any]]) -> None:
        """Runs one check; it fails by raising."""
        start = time.perf_counter()
        try:
            details, ok = function(), True
        except Exception as error:
            details, ok = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}, False
        seconds = time.perf_counter() - start
        self.records.append({"check": name, "ok": ok, "seconds": round(seconds, 3), **details})
        shown = ", ".join(f"{key} {value}" for key, value in details.items() if key != "trace")
        print(f"{'ok  ' if ok else 'FAIL'} {name:34} {seconds:7.2f} s  {shown}", flush=True)

    def usable(self) -> dict[str, Any]:
        """The engine accepts this GPU, and says so at once the second time."""
        reason = self.engine.unusable(self.host)
        assert reason is None, reason
        start = time.perf_counter()
        assert self.engine.unusable(self.gpu) is None
        return {"second_call_us": round((time.perf_counter() - start) * 1e6, 1)}

    def program(self, case: Case) -> Any:
        """Returns the built program of a case."""
        if case.name not in self.programs:
            self.programs[case.name] = self.engine.build(case.model, Options(), self.host, case.name)
        return self.programs[case.name]

    def on_host_arrays(self, case: Case) -> dict[str, Any]:
        """Arrays in host memory; new contents and new addresses are seen."""
        start = time.perf_counter()
        runner = self.program(case).runner(self.host)
        first_ms = (time.perf_counter() - start) * 1e3
        worst = 0.0
        for _ in range(3):
            outputs = case.outputs()
            runner.run(buffers(case.inputs), buffers(outputs), 0)
            worst = max(worst, self._accept(case, outputs))
        sources, targets = buffers(case.inputs), buffers(outputs)
        times = []
        for _ in range(50):
            start = time.perf_counter()
            runner.run(sources, targets, 0)
            times.append(time.perf_counter() - start)
        runner.close()
        return {"error": f"{worst:.1e}", "runner_ms": round(first_ms), "run_us": round(float(np.median(times)) * 1e6)}

    def on_gpu_arrays(self, case: Case, offset_bytes: int) -> dict[str, Any]:
        """Arrays in device memory, on a stream of the caller's."""
        runner = self.program(case).runner(self.gpu)
        outputs = case.outputs()
        with self.driver.on_device(self.gpu.gpu_index):
            stream = self.driver.stream_create()
            device_in = DeviceArrays(self.driver, case.inputs, offset_bytes)
            device_out = DeviceArrays(self.driver, outputs, offset_bytes)
        times = []
        for _ in range(20):  # from a thread state without a current context, as MXNet's engine threads have
            start = time.perf_counter()
            runner.run(device_in.buffers, device_out.buffers, stream)
            times.append(time.perf_counter() - start)
        with self.driver.on_device(self.gpu.gpu_index):
            self.driver.synchronize(stream)
            device_out.read()
            device_in.free()
            device_out.free()
            self.driver.stream_destroy(stream)
        runner.close()
        worst = self._accept(case, outputs)
        return {"error": f"{worst:.1e}", "queue_us": round(float(np.median(times)) * 1e6)}

    @staticmethod
    def _accept(case: Case, outputs: Sequence[Any]) -> float:
        error = case.error(outputs)
        assert error <= TOLERANCE, f"relative error {error:.2e}"
        return error

    def two_threads(self, case: Case) -> dict[str, Any]:
        """Two runners of one program at once give what one alone gives."""
        program = self.program(case)
        problems: list[str] = []

        def work() -> None:
            try:
                runner = program.runner(self.host)
                for _ in range(self.repeats):
                    outputs = case.outputs()
                    runner.run(buffers(case.inputs), buffers(outputs), 0)
                    self._accept(case, outputs)
                runner.close()
            except Exception as error:
                problems.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not problems, problems[0]
        return {"runs": 2 * self.repeats}

    def no_leak(self, case: Case) -> dict[str, Any]:
        """Making and dropping programs and runners gives all device memory back."""

        def cycle() -> None:
            program = self.engine.build(case.model, Options(), self.host, case.name)
            for device in (self.host, self.gpu):
                runner = program.runner(device)
                if device is self.host:
                    outputs = case.outputs()  # held in a variable: a Buffer does not keep its array alive
                    runner.run(buffers(case.inputs), buffers(outputs), 0)
                runner.close()
            program.close()
            gc.collect()

        cycle()
        before = self.free_bytes()
        for _ in range(5):
            cycle()
        lost = before - self.free_bytes()
        assert lost < LEAK_BYTES, f"{lost} bytes of device memory are gone"
        return {"lost_bytes": lost}

    def free_bytes(self) -> int:
        """Returns the free device memory."""
        with self.driver.on_device(self.host.gpu_index):
            return self.driver.mem_get_info()[0]

    def capture(self, case: Case) -> dict[str, Any]:
        """A run split into prepare() and enqueue() can be captured in a CUDA graph and replayed."""
        library = ctypes.CDLL(cuda_driver.LIBRARY)
        runner = self.program(case).runner(self.host)
        outputs = case.outputs()
        runner.run(buffers(case.inputs), buffers(outputs), 0)  # warm up: the first enqueue may allocate
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        stream = ctypes.c_void_p(runner.stream)
        with self.driver.on_device(self.host.gpu_index):
            thread_local_mode = 1
            self.driver.check(library.cuStreamBeginCapture_v2(stream, thread_local_mode), "beginning a capture")
            runner.enqueue(runner.stream)
            self.driver.check(library.cuStreamEndCapture(stream, ctypes.byref(graph)), "ending a capture")
            flags = ctypes.c_ulonglong(0)
            status = library.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, flags)
            self.driver.check(status, "instantiating a graph")
            times = []
            for _ in range(50):
                start = time.perf_counter()
                self.driver.check(library.cuGraphLaunch(executable, stream), "launching a graph")
                self.driver.synchronize(runner.stream)
                times.append(time.perf_counter() - start)
            for slot, array in zip(runner.slots[len(case.inputs) :], outputs):
                array[...] = 0
                ctypes.memmove(array.ctypes.data, slot.pinned, slot.nbytes)
            self.driver.check(library.cuGraphExecDestroy(executable), "destroying a graph")
            self.driver.check(library.cuGraphDestroy(graph), "destroying a graph")
        runner.close()
        worst = self._accept(case, outputs)
        return {"error": f"{worst:.1e}", "replay_us": round(float(np.median(times)) * 1e6)}

    def refusals(self) -> dict[str, Any]:
        """Wrong precision, parser errors, and a device that is not there are refused in words."""
        for model, options, word in (
            (models.relu(), Options(precision="fp16"), "not implemented"),
            (models.refused(), Options(), "bad_node"),
        ):
            try:
                self.engine.build(model, options, self.host, "refused")
            except EngineError as error:
                assert word in str(error), str(error)
            else:
                raise AssertionError(f"accepted what should be refused ({word})")
        reason = self.engine.unusable(Device("cpu", 0, 99))
        assert reason is not None
        assert "no CUDA device 99" in reason
        return {}

    def fallback_on_gpu_arrays(self, case: Case) -> dict[str, Any]:
        """ONNX Runtime on arrays in device memory, as when TensorRT fails."""
        engine, self.engine, kept = self.engine, registry.get("onnxruntime"), self.programs
        self.programs = {}
        try:
            return self.on_gpu_arrays(case, 0)
        finally:
            self.engine, self.programs = engine, kept

    def run(self) -> bool:
        """Runs all checks; returns whether all passed."""
        self.check("the GPU is accepted", self.usable)
        all_cases = cases()
        for case in all_cases:
            self.check(f"host arrays: {case.name}", lambda case=case: self.on_host_arrays(case))  # type: ignore[misc]
            self.check(f"gpu arrays: {case.name}", lambda case=case: self.on_gpu_arrays(case, 0))  # type: ignore[misc]
        last = all_cases[-1]
        self.check("gpu arrays, unaligned: " + last.name, lambda: self.on_gpu_arrays(last, 8))
        self.check("CUDA graph of a run: " + last.name, lambda: self.capture(last))
        self.check("two threads: " + last.name, lambda: self.two_threads(last))
        self.check("no leak: " + last.name, lambda: self.no_leak(last))
        self.check("refusals", self.refusals)
        if registry.get("onnxruntime").unusable(self.gpu) is None:
            self.check("fallback, gpu arrays: " + last.name, lambda: self.fallback_on_gpu_arrays(last))
        return all(record["ok"] for record in self.records)


def main() -> int:
    """Runs the checks and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for engines.json")
    parser.add_argument("--engine", default="tensorrt_rtx", help="the engine to verify")
    parser.add_argument("--device", type=int, default=0, help="CUDA device")
    parser.add_argument("--repeats", type=int, default=200, help="runs of each of the two threads")
    arguments = parser.parse_args()
    verification = Verification(arguments.engine, arguments.device, arguments.repeats)
    environment = {"engine": arguments.engine, "version": verification.engine.version()}
    reason = cuda_driver.default().unavailable()
    if reason is None:
        info = cuda_driver.default().device_info(arguments.device)
        environment.update(gpu=info.describe(), driver="CUDA " + ".".join(map(str, cuda_driver.default().version())))
    else:
        environment["gpu"] = reason
    environment["reference"] = f"onnxruntime {registry.get('onnxruntime').version()}".strip()
    print(", ".join(f"{key}: {value}" for key, value in environment.items()))
    passed = verification.run() if reason is None else False
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {"passed": passed, **environment, "checks": verification.records}
    (arguments.out / "engines.json").write_text(json.dumps(report, indent=1) + "\n")
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
