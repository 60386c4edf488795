"""TensorRT and TensorRT-RTX as engines: whether they can run here, building, and building without a GPU."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Optional

from mxnet_trt_property.cuda_driver import CudaError, DeviceInfo, Driver, default
from mxnet_trt_property.engines.registry import Device, Options, check_precision
from mxnet_trt_property.engines.trt_build import Plan, library
from mxnet_trt_property.engines.trt_run import TensorRTProgram
from mxnet_trt_property.errors import EngineError, message

_log = logging.getLogger("mxnet_trt_property")

_HOPPER = (9, 0)
_TURING = (7, 5)


class TensorRTEngine:
    """TensorRT by its Python bindings.

    Args:
        name: The engine's name in the registry.
        module: The bindings module, "tensorrt" or "tensorrt_rtx".
        driver: The CUDA driver; the process's own by default.
    """

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
        with self._lock:
            if device.gpu_index not in self._verdicts:
                reason, lasting = self._probe(device.gpu_index)
                if not lasting:
                    return reason
                self._verdicts[device.gpu_index] = reason
            return self._verdicts[device.gpu_index]

    def _probe(self, gpu_index: int) -> tuple[Optional[str], bool]:
        """Returns why the library refuses a GPU, or None, and whether that will stay so."""
        try:
            info = self._driver.device_info(gpu_index)
            with self._driver.on_device(gpu_index):
                plan = self._library.build_probe(self._targets(info))
                self._library.try_out(plan)
        except CudaError as error:
            return str(error), False
        except EngineError as error:
            words = str(error)
            reason = message(
                f"{self._library.full_name} refuses {info.describe()}", found=words, next_step=self._remedy(info)
            )
            return reason, "memory" not in words.lower()
        _log.debug("%s accepts %s", self._library.full_name, info.describe())
        return None, True

    def _remedy(self, info: DeviceInfo) -> str:
        if self._library.title == "TensorRT-RTX" and info.compute_capability == _HOPPER:
            return (
                "newer versions of TensorRT-RTX dropped Hopper, 1.5.0.114 runs on it: "
                "pip install tensorrt-rtx-cu12==1.5.0.114"
            )
        return (
            f"install a version of {self._library.title} that supports this GPU, update the NVIDIA driver, "
            "or set MXNET_TENSORRT_ENGINE=onnxruntime"
        )

    def _targets(self, info: DeviceInfo) -> tuple[str, ...]:
        """Returns the compute capabilities to build for; () is TensorRT-RTX's default, Ampere and later."""
        if self._library.title == "TensorRT-RTX" and info.compute_capability == _TURING:
            return ("7.5",)
        return ()

    def refused_nodes(self, model: bytes) -> dict[str, str]:
        """Returns the nodes of the serialized ONNX `model` that the parser refuses, by name, with its reasons."""
        return self._library.refused_nodes(model)

    def build(self, model: bytes, options: Options, device: Device, label: str) -> TensorRTProgram:
        """Builds the serialized ONNX `model` and loads it on the device.

        Raises:
            EngineError: The precision is not implemented, the parser refused nodes, the build failed, or the
                engine cannot be loaded.
        """
        check_precision(self.name, options, label)
        self._library.verbose = self._library.verbose or options.verbose
        targets = self._targets(self._driver.device_info(device.gpu_index))
        with self._driver.on_device(device.gpu_index):
            plan = self._library.build(model, label, options.workspace_bytes, targets, options.profile)
        program = self.program(plan, label)
        program.load(device.gpu_index)
        return program

    def program(self, plan: Plan, label: str) -> TensorRTProgram:
        """Returns the program of a plan that was built before; it is loaded on a device by its first runner."""
        return TensorRTProgram(self._library, self._driver, plan, label)


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
