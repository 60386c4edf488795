"""TensorRT and TensorRT-RTX as engines: whether they can run here, building, and building without a GPU."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Optional

from mxnet_trt_property.cache import keys
from mxnet_trt_property.cache.build import Packed, Shelf
from mxnet_trt_property.cache.entry import Entry
from mxnet_trt_property.cuda_driver import CudaError, DeviceInfo, Driver, default
from mxnet_trt_property.engines import trt_packing, trt_refit
from mxnet_trt_property.engines.registry import Device, Options, check_precision
from mxnet_trt_property.engines.trt_build import FREE_MEMORY, library
from mxnet_trt_property.engines.trt_packing import Timings
from mxnet_trt_property.engines.trt_program import TensorRTProgram, kernels_overlap_wrongly
from mxnet_trt_property.errors import BuildInterruptedError, DeviceMemoryError, EngineError, message

_log = logging.getLogger("mxnet_trt_property")

_HOPPER = (9, 0)
_TURING = (7, 5)
_REFIT_PRECISIONS = ("fp32", "fp16", "bf16")
# "Enabling kREFIT may produce incorrect numerical output", says the documentation of 11.3.0; that of 11.4.0 does not.
_WRONG_REFIT = "11.3."

# Of device memory, for the library's own, and an engine of one node.
_NEEDED_BYTES = 512 << 20

# Seen on a GPU; see docs/gpu-verification.md.
_UNFIT = {
    "Loop": "each step waits for the host, so that nothing of the engine could be captured in a CUDA graph",
    "Mod": "of floats it divides in float32, which is wrong for large quotients and beside infinities",
}


def install_for(compute_capability: tuple[int, int]) -> str:
    """Returns the pip command for a TensorRT from PyPI that runs on GPUs of a compute capability."""
    if compute_capability == _HOPPER:
        return "pip install tensorrt-rtx-cu12==1.5.0.114"
    return 'pip install "mxnet-trt-property[rtx-cu12]"'


class TensorRTEngine:
    """TensorRT by its Python bindings.

    Args:
        name: The engine's name in the registry.
        module: The bindings module, "tensorrt" or "tensorrt_rtx".
        driver: The CUDA driver; the process's own by default.
    """

    tolerance = 2e-3  # fp32 convolutions are computed in TF32, which has 10 bits of mantissa
    has_bfloat16 = True

    def __init__(self, name: str, module: str, driver: Optional[Driver] = None) -> None:
        self.name = name
        self.takes_profiles = True
        self._library = library(module)
        self._driver = driver or default()
        self._lock = threading.Lock()
        self._verdicts: dict[int, Optional[str]] = {}

    def version(self) -> str:
        """Returns the library's version, or "" where it is not installed."""
        return self._library.version

    def unusable(self, device: Device) -> Optional[str]:
        """Returns why TensorRT cannot run arrays of `device`, or None.

        The last test loads an engine of one node on the GPU, once per process and device: the only way to
        learn whether this version of the library accepts it.
        """
        try:
            self._library.module()
        except EngineError as error:
            return str(error)
        reason = self._driver.unavailable()
        if reason is not None:
            return reason
        count = self._driver.device_count()
        if not 0 <= device.gpu_index < count:
            return message(
                f"There is no CUDA device {device.gpu_index}",
                found=f"{count} device(s)",
                required=f"an index from 0 to {count - 1}",
                next_step="set MXNET_TENSORRT_DEVICE, or check CUDA_VISIBLE_DEVICES",
            )
        reason = self._driver.lost(device.gpu_index)
        if reason is not None:
            return reason
        with self._lock:
            if device.gpu_index not in self._verdicts:
                reason, lasting = self._probe(device.gpu_index)
                if not lasting:
                    return reason
                self._verdicts[device.gpu_index] = reason
            return self._verdicts[device.gpu_index]

    def ask_again(self, device: Device) -> None:
        """Forgets what `unusable` found for a device on which an engine has failed: the GPU may be lost since."""
        with self._lock:
            self._verdicts.pop(device.gpu_index, None)

    def _probe(self, gpu_index: int) -> tuple[Optional[str], bool]:
        """Returns why the library refuses a GPU, or None, and whether that will stay so."""
        try:
            info = self._driver.device_info(gpu_index)
            with self._driver.on_device(gpu_index):
                plan = self._library.build_probe(self._targets(info))
                self._library.try_out(plan)
        except CudaError as error:
            return str(error), False
        except DeviceMemoryError as error:
            return str(error), False
        except EngineError as error:
            free = self._free_bytes(gpu_index)
            if free < _NEEDED_BYTES:  # the library does not always say so
                found = f"{free >> 20} MiB of memory are free on it, and {error}"
                return message(f"{info.describe()} cannot be tried", found=found, next_step=FREE_MEMORY), False
            reason = message(
                f"{self._library.full_name} refuses {info.describe()}", found=str(error), next_step=self._remedy(info)
            )
            return reason, True
        _log.debug("%s accepts %s", self._library.full_name, info.describe())
        return None, True

    def _free_bytes(self, gpu_index: int) -> int:
        with contextlib.suppress(CudaError), self._driver.on_device(gpu_index):
            return self._driver.mem_get_info()[0]
        return 0

    def _remedy(self, info: DeviceInfo) -> str:
        if self._is_rtx and info.compute_capability == _HOPPER:
            return f"newer versions of TensorRT-RTX dropped Hopper, 1.5.0.114 runs on it: {install_for(_HOPPER)}"
        return (
            f"install a version of {self._library.title} that supports this GPU, update the NVIDIA driver, "
            "or set MXNET_TENSORRT_ENGINE=onnxruntime"
        )

    def _targets(self, info: DeviceInfo) -> tuple[str, ...]:
        """Returns the compute capabilities to build for; () is TensorRT-RTX's default, Ampere and later."""
        if self._is_rtx and info.compute_capability == _TURING:
            return ("7.5",)
        return ()

    def refused_nodes(self, model: bytes) -> dict[str, str]:
        """Returns the nodes of the serialized ONNX `model` that do not belong in an engine, by name, with reasons.

        They are what the parser refuses, and what it takes and the engine does wrong.
        """
        import onnx

        from mxnet_trt_property.engines import trt_int8

        found = {}
        proto = onnx.load_from_string(model)
        if any(node.op_type == "DequantizeLinear" for node in proto.graph.node):
            for node in trt_int8.quantized(proto, self.no_int8()):
                found[node.name] = f"it builds no {node.op_type} in int8"
        for node in proto.graph.node:
            whole = not any(attribute.name == "fmod" and attribute.i for attribute in node.attribute)
            if node.op_type in _UNFIT and not (node.op_type == "Mod" and whole):
                found[node.name] = f"an engine does ONNX operator {node.op_type} badly: {_UNFIT[node.op_type]}"
        return {**self._library.refused_nodes(model), **found}

    def why_no_refit(self, options: Options, device: Device) -> str:
        """Returns why engines built with these options for a device cannot take new weights, or ""."""
        if options.precision not in _REFIT_PRECISIONS:
            return f"the scales of {options.precision} depend on the weights"
        trt = self._library.module()
        if not hasattr(trt, "OnnxParserRefitter"):
            return f"{self._library.full_name} has no refitter for ONNX models"
        if self._library.title == "TensorRT" and self._library.version.startswith(_WRONG_REFIT):
            return f"{self._library.full_name} may drop biases in engines that can be refitted, by its release notes"
        index = device.gpu_index
        if kernels_overlap_wrongly(self._library, self._driver, index) and not trt_refit.TRUST_OVERLAPPING_KERNELS:
            gpu = self._driver.device_info(index).describe()
            return f"{self._library.full_name} lets kernels overlap that must not on {gpu}"
        return ""

    def no_int8(self) -> frozenset[str]:
        """Returns the ONNX operators that this version does not build in int8; they stay in float32."""
        from mxnet_trt_property.engines import trt_int8

        return trt_int8.unbuilt(self._library)

    def build(self, model: bytes, options: Options, device: Device, label: str) -> TensorRTProgram:
        """Builds the serialized ONNX `model` and loads it on the device.

        With `options.refittable` the engine can take new weights, unless the library cannot build such an engine of
        this model: then it is built as always, and `no_refit` of the program says why.

        Raises:
            EngineError: The precision is not implemented, the parser refused nodes, the build failed, or the
                engine cannot be loaded.
        """
        return self._build(model, options, device, label, None)

    def _build(
        self, model: bytes, options: Options, device: Device, label: str, shelf: Optional[Shelf]
    ) -> TensorRTProgram:
        check_precision(self.name, options, label)
        self._library.verbose = self._library.verbose or options.verbose
        refused = ""
        if options.refittable and not self.why_no_refit(options, device):
            try:
                return self._built(model, options, device, label, shelf, refittable=True)
            except BuildInterruptedError:
                raise
            except EngineError as error:
                refused = f"no engine that can take new weights could be made: {error}"
                _log.debug("%s: %s", label, refused)
        program = self._built(model, options, device, label, shelf, refittable=False)
        program.no_refit = refused or program.no_refit
        return program

    def _built(
        self,
        model: bytes,
        options: Options,
        device: Device,
        label: str,
        shelf: Optional[Shelf],
        *,
        refittable: bool,
    ) -> TensorRTProgram:
        self._library.detailed = options.layer_times
        targets = self._targets(self._driver.device_info(device.gpu_index))
        timings = None
        if shelf is not None and not self._is_rtx:  # TensorRT-RTX measures nothing
            timings = Timings(self._library, shelf, keys.gpu(self._driver, device.gpu_index))
        with self._driver.on_device(device.gpu_index):
            plan = self._library.build(
                model, label, options.workspace_bytes, targets, options.profile, refittable, timings
            )
        program = TensorRTProgram(self._library, self._driver, plan, label, shelf)
        program.load(device.gpu_index)
        if refittable:
            program.check_refittable(device.gpu_index)
        return program

    @property
    def _is_rtx(self) -> bool:
        return self._library.title == "TensorRT-RTX"

    # -- the cache on disk (cache/build.py: CachingEngine) -------------------------------------

    keeps_body = True

    def cache_variants(self, device: Device) -> tuple[str, ...]:
        """Returns the GPUs that an engine for `device` may have been built for: for TensorRT, its kind and driver."""
        if not self._is_rtx:
            return (keys.gpu(self._driver, device.gpu_index),)
        info = self._driver.device_info(device.gpu_index)
        exact = variant(["{}.{}".format(*info.compute_capability)])
        built = variant(self._targets(info))
        return tuple(dict.fromkeys((built, exact)))

    def build_packed(
        self, model: bytes, options: Options, device: Device, label: str, shelf: Shelf, keep: Callable[[Packed], None]
    ) -> TensorRTProgram:
        """Builds as `build` does, and keeps plan, timings and, when they are compiled, kernels."""
        program = self._build(model, options, device, label, shelf)
        keep(trt_packing.pack(program.plan))
        return program

    def unpack(self, packed: Entry, options: Options, device: Device, label: str, shelf: Shelf) -> TensorRTProgram:
        """Returns the program of an entry, loaded on the device.

        Raises:
            EngineError: The library or the device refused it.
            PackingError: The entry does not describe a plan.
        """
        self._library.verbose = self._library.verbose or options.verbose
        program = TensorRTProgram(self._library, self._driver, trt_packing.plan_of(packed), label, shelf)
        program.load(device.gpu_index)
        return program


def variant(compute_capabilities: Sequence[str]) -> str:
    """Returns what the cache calls an engine of TensorRT-RTX for these GPUs; without any, for all from Ampere on."""
    return ",".join("sm_" + text.replace(".", "") for text in compute_capabilities) or "ampere and later"


def build_ahead_of_time(
    model: bytes, module: str = "tensorrt_rtx", compute_capabilities: Sequence[str] = (), label: str = "the model"
) -> bytes:
    """Builds the serialized ONNX `model` without touching a GPU and returns the serialized engine.

    Only TensorRT-RTX can do this; TensorRT itself needs a GPU to build.

    Args:
        model: The ONNX model.
        module: The bindings module.
        compute_capabilities: The GPUs to build for, such as ("8.6", "8.9"). Empty means what a build on a machine
            with a GPU uses too: all GPUs from Ampere on.
        label: What the model is, in messages.

    Raises:
        EngineError: The module is missing, the parser refused nodes, or the build failed.
    """
    return library(module).build(model, label, 0, compute_capabilities).data
