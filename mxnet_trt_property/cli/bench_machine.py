"""What the numbers of a benchmark depend on besides the code."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

_PACKAGES = (
    "mxnet",
    "numpy",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx_cu12",
    "tensorrt_rtx_cu13",
    "mxnet-trt-property",
)

_BUSY = 0.5  # of the CPUs; engines that spin lose more than their share when they lose a core


def describe() -> dict[str, Any]:
    """Returns CPU, GPU, driver and versions; what is not there is left out."""
    import mxnet as mx

    from mxnet_trt_property import __version__, cuda_driver
    from mxnet_trt_property.engines import registry

    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "mxnet": mx.__version__,
    }
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["engines"] = []
    for name in registry.names():
        try:
            version = registry.get(name).version()
        except Exception:  # a broken third-party package; `doctor` tells about it
            continue
        if version:
            found[name] = version
            found["engines"].append(name)
    found["mxnet-trt-property"] = __version__
    driver = cuda_driver.default()
    if driver.unavailable() is None:
        info = driver.device_info(0)
        found["gpu"] = info.name
        found["compute_capability"] = ".".join(str(n) for n in info.compute_capability)
        found["cuda_of_driver"] = ".".join(str(n) for n in driver.version())
        found["gpu_driver"] = kernel_driver()
    if "OMP_NUM_THREADS" in os.environ:
        found["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    return found


def summary(machine: dict[str, Any]) -> str:
    """Returns the machine in one line."""
    parts = [f"{machine['cpus']} x {machine['cpu']}"]
    if "gpu" in machine:
        parts.append(f"{machine['gpu']} (driver {machine['gpu_driver'] or machine['cuda_of_driver']})")
    names = [n for n in ("mxnet", *machine["engines"], "numpy", "python") if n in machine]
    text = ", ".join([*parts, *(f"{n} {machine[n]}" for n in names)])
    if machine["load_before"] > _BUSY * machine["cpus"]:
        text += f"; BUSY: load {machine['load_before']} before the first run, so the times mean little"
    return text


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux, or /proc is hidden
    return platform.processor() or platform.machine()


def kernel_driver() -> str:
    """Returns the NVIDIA driver's own version: the driver library tells CUDA's only."""
    try:
        with open("/sys/module/nvidia/version", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""
