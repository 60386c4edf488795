"""A built TensorRT engine, loaded once for each device that it is used on."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Sequence
from typing import Optional

import numpy as np

from mxnet_trt_property import forks
from mxnet_trt_property.cache.build import Shelf
from mxnet_trt_property.cuda_driver import CudaError, Driver
from mxnet_trt_property.engines import trt_graph, trt_profile, trt_refit
from mxnet_trt_property.engines.layers import LayerTimes, random_array
from mxnet_trt_property.engines.registry import Device, RefitError, Runner, Shapes
from mxnet_trt_property.engines.trt_build import Library, Plan, TensorSpec, numpy_dtype
from mxnet_trt_property.engines.trt_packing import Kernels, kernels_of
from mxnet_trt_property.engines.trt_run import ITEM_BYTES, TensorRTRunner
from mxnet_trt_property.errors import EngineError, message

# TensorRT-RTX launches kernels so that one may start before the one in front of it has ended. On GPUs that it is not
# made for they then read what is not written yet: seen with 1.5.0.114 on an H100, where results changed from run to run
# until the kernels were made to wait (docs/gpu-verification.md).
_OVERLAP_WRONGLY = (9, 10)


def kernels_overlap_wrongly(library: Library, driver: Driver, gpu_index: int) -> bool:
    """Whether the library's kernels must be kept from starting before the one in front of them has ended."""
    return library.title == "TensorRT-RTX" and driver.device_info(gpu_index).compute_capability[0] in _OVERLAP_WRONGLY


class TensorRTProgram:
    """A serialized engine, and the engines made of it on each device it is used on.

    Attributes:
        size_bytes: The size of the serialized engine.
        plan: The serialized engine; its weights are those of the build, also after a refit.
        no_refit: Why it cannot take new weights, or "".
    """

    def __init__(self, library: Library, driver: Driver, plan: Plan, label: str, shelf: Optional[Shelf] = None) -> None:
        """Makes the program of a plan; what its GPUs compile is kept on `shelf`."""
        self.size_bytes = len(plan.data)
        self._shelf = shelf
        self.plan = plan
        self.no_refit = "" if plan.outline is not None else "it was built without the means to change its weights"
        self._refitted_on: Optional[int] = None
        self._library = library
        self._driver = driver
        self._label = label
        self._lock = threading.Lock()
        self._engines: dict[int, LoadedEngine] = {}
        self._finalizer = weakref.finalize(self, _close_all, self._engines)

    def load(self, gpu_index: int) -> LoadedEngine:
        """Returns the engine on CUDA device `gpu_index`, loading it the first time.

        Raises:
            EngineError: The library or the device refused it, or the program is closed.
        """
        with self._lock:
            if not self._finalizer.alive:
                raise EngineError(message(f"The {self._library.title} program of {self._label} is closed"))
            loaded = self._engines.get(gpu_index)
            if loaded is None:
                if self._refitted_on is not None:
                    raise EngineError(
                        message(
                            f"The engine of {self._label} cannot be loaded on GPU {gpu_index}",
                            found=f"new weights, which were given to it on GPU {self._refitted_on} only",
                            next_step="build it again for that GPU",
                        )
                    )
                loaded = LoadedEngine(self._library, self._driver, self.plan, gpu_index, self._label, self._shelf)
                self._engines[gpu_index] = loaded
            return loaded

    def runner(self, device: Device) -> TensorRTRunner:
        """Returns a new runner with an execution context, a stream and buffers of its own.

        Raises:
            EngineError: The engine cannot be loaded on the device, or there is not enough memory.
        """
        return TensorRTRunner(self.load(device.gpu_index), device.kind == "cpu")

    def runner_for(self, device: Device, shapes: Shapes) -> TensorRTRunner:
        """Returns a new runner for arrays of these shapes; see `runner`."""
        return TensorRTRunner(self.load(device.gpu_index), device.kind == "cpu", shapes)

    def check_refittable(self, gpu_index: int) -> None:
        """Refuses an engine that was built to take new weights and cannot take all of them.

        Raises:
            RefitError: It does not list each weight of its model.
        """
        loaded = self.load(gpu_index)
        assert self.plan.outline is not None
        what = f"{self._library.full_name} cannot give the engine of {self._label} new weights"
        with self._driver.on_device(gpu_index):
            trt_refit.check_covered(self._library, loaded.engine, self.plan.outline, what)

    def misfit(self, model: bytes) -> str:
        """Returns why the engine cannot take the weights of the serialized ONNX `model`, or ""."""
        if self.no_refit:
            return self.no_refit
        assert self.plan.outline is not None
        return self.plan.outline.misfit(trt_refit.outline(model))

    def refit(self, model: bytes, runners: Sequence[Runner]) -> None:
        """Gives the engine the weights of `model` in place; see `RefittableProgram.refit`.

        Raises:
            RefitError: It failed; program and runners must not be run any more.
        """
        with self._lock:
            if len(self._engines) != 1:
                found = f"{len(self._engines)} devices that it is loaded on"
                raise RefitError(message(f"The engine of {self._label} takes no new weights", found=found))
            gpu_index, loaded = next(iter(self._engines.items()))
            self._refitted_on = gpu_index
            what = f"{self._library.full_name} cannot give the engine of {self._label} new weights"
            with self._driver.on_device(gpu_index):
                # Work of a runner may be queued on a stream of MXNet's, and a refit must find none.
                with trt_graph.CAPTURE_LOCK:
                    self._driver.synchronize_device()
                for runner in runners:
                    assert isinstance(runner, TensorRTRunner)
                    runner.forget_captures()
                trt_refit.refit(self._library, loaded.engine, model, what)

    def refitted_copy(self, model: bytes, device: Device) -> TensorRTProgram:
        """Returns another program with the weights of `model`; this one stays as it is.

        Raises:
            EngineError: The copy cannot be loaded or refitted.
        """
        made = TensorRTProgram(self._library, self._driver, self.plan, self._label, self._shelf)
        made.load(device.gpu_index)
        made.refit(model, ())
        return made

    def layer_times(self, device: Device, runs: int) -> LayerTimes:
        """Times layers and copies on host arrays, as `ProfiledProgram.layer_times` says.

        Raises:
            EngineError: The engine failed.
        """
        host = Device("cpu", 0, device.gpu_index)
        inputs = [random_array(spec.shape, np.dtype(spec.dtype)) for spec in self.plan.inputs]
        outputs = [np.zeros(spec.shape, spec.dtype) for spec in self.plan.outputs]
        runner, measured = self.runner(host), self.runner(host)
        try:
            whole_ms = trt_profile.run_ms(runner, inputs, outputs, runs)
            trt_profile.run(measured, inputs, outputs)  # fills its memory: what is in new memory may be no index
            return measured.layer_times(whole_ms, runs)
        finally:
            runner.close()
            measured.close()

    def close(self) -> None:
        """Unloads the engine from all devices; one that a runner still uses goes with that runner."""
        with self._lock:
            self._finalizer()


class LoadedEngine:
    """An engine on one device, and how its tensors map to the model's inputs and outputs."""

    def __init__(
        self, library: Library, driver: Driver, plan: Plan, gpu_index: int, label: str, shelf: Optional[Shelf]
    ) -> None:
        self.library = library
        self.driver = driver
        self.gpu_index = gpu_index
        self.label = label
        self.inputs = plan.inputs
        self.outputs = plan.outputs
        self.kernels_overlap_wrongly = kernels_overlap_wrongly(library, driver, gpu_index)
        what = f"{library.full_name} cannot load the engine of {label} on GPU {gpu_index}"
        with driver.on_device(gpu_index):
            self.runtime, self.engine = library.load(plan.data, what)
            self.kernels: Optional[Kernels] = None
            try:
                self.kernels = kernels_of(library, self.engine, driver, gpu_index, shelf)
                self.bound = {self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)}
                for spec in (*plan.inputs, *plan.outputs):
                    self._check(spec, spec in plan.outputs)
            except BaseException:
                self.close()
                raise

    def _check(self, spec: TensorSpec, is_output: bool) -> None:
        if spec.name not in self.bound:
            if is_output:
                raise EngineError(message(f"{self.label}: the engine has no output '{spec.name}'"))
            return  # nothing reads this input, so the library dropped it
        dtype = numpy_dtype(self.engine.get_tensor_dtype(spec.name))
        location = self.engine.get_tensor_location(spec.name).name
        if dtype != spec.dtype or dtype not in ITEM_BYTES or location != "DEVICE":
            raise EngineError(
                message(
                    f"{self.label}: tensor '{spec.name}' of the engine is of a kind that cannot be given an array",
                    found=f"{dtype} in {location.lower()} memory",
                    required=f"{spec.dtype}, one of {', '.join(ITEM_BYTES)}, in device memory",
                )
            )

    def close(self) -> None:
        """Drops the engine; execution contexts that exist keep it alive."""
        if self.driver.lost(self.gpu_index) is not None:
            # To free what is the library's would corrupt the heap.
            forks.never_free((self.kernels, self.engine, self.runtime))
        with contextlib.suppress(CudaError), self.driver.on_device(self.gpu_index):
            self.kernels = None
            self.engine = None
            self.runtime = None


def _close_all(engines: dict[int, LoadedEngine]) -> None:
    while engines:
        engines.popitem()[1].close()
