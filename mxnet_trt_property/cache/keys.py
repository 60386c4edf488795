"""What an entry's key is made of: all that the kept engine depends on.

the ONNX model with its weights   by its bytes, or by what the bytes are made of (`Recipe`)
shapes and dtypes                 they are in the ONNX model
options                           all of `engines.registry.Options` but `verbose`
engine, its version, its variant  the variant is the engine's word for the machine: GPU, driver, CPU features
the code that calls the engine    by a digest of its sources, so that no change of it needs to be remembered here
the format of the files
"""

from __future__ import annotations

import dataclasses
import functools
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Union

from blake3 import blake3

from mxnet_trt_property import engines
from mxnet_trt_property._version import __version__
from mxnet_trt_property.cache import entry
from mxnet_trt_property.cuda_driver import Driver
from mxnet_trt_property.engines.registry import Options

_CPU_ROWS = (
    "vendor_id",
    "cpu family",
    "model",
    "flags",
    "CPU implementer",
    "CPU architecture",
    "CPU part",
    "Features",
)


class Recipe(NamedTuple):
    """What the bytes of an ONNX model are made of, where that is known without writing them.

    The model is its structure with the weights' values put in, nothing else: equal structures with equal values give
    equal bytes. So the digests, which a session has anyway, stand for bytes that need not be written for a hit.

    Attributes:
        structure: A digest of the ONNX model without the values of its weights.
        weights: A digest of each weight's values, in the order of the model's weights.
    """

    structure: bytes
    weights: tuple[bytes, ...]


def digest(parts: Iterable[Union[str, bytes]]) -> bytes:
    """Returns a digest of a sequence of texts, with its borders: ("ab", "c") is not ("a", "bc")."""
    found = blake3()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little") + data)
    return found.digest()


def of_model(source: Union[Recipe, bytes]) -> bytes:
    """Returns what stands for a model in a key."""
    if isinstance(source, Recipe):
        return digest(["recipe", source.structure, *source.weights])
    return digest(["bytes", blake3(source).digest()])


def of_engine(model: bytes, engine: str, version: str, variant: str, options: Options) -> bytes:
    """Returns the key of a built engine.

    Args:
        model: What `of_model` returned.
        engine: The engine's name.
        version: The engine's version.
        variant: For which machine it is built, in the engine's words.
        options: The options of the build.
    """
    return digest(["engine", str(entry.FORMAT), _code(), model, engine, version, variant, _text(options)])


def beside(kind: str, *parts: Union[str, bytes]) -> bytes:
    """Returns the key of what an engine keeps beside its programs, such as kernels that were compiled for one GPU."""
    return digest([kind, str(entry.FORMAT), _code(), *parts])


def gpu(driver: Driver, index: int) -> str:
    """Returns what code that was made on a GPU depends on: its kind, and the driver.

    Raises:
        CudaError: The GPU cannot be asked.
    """
    info = driver.device_info(index)
    return json.dumps([info.name, info.compute_capability, info.total_bytes, driver.version(), _kernel_module()])


@functools.cache
def cpu() -> str:
    """Returns what code that was chosen for this CPU depends on; empty where the system does not tell."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return ""
    rows = dict(line.partition(":")[::2] for line in first.splitlines())
    found = {name.strip(): text.strip() for name, text in rows.items() if name.strip() in _CPU_ROWS}
    return json.dumps([platform.machine(), found], sort_keys=True) if found else ""


def _kernel_module() -> str:
    """Returns the NVIDIA driver's own version, which the driver library does not tell; empty where nothing does."""
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _text(options: Options) -> str:
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name != "verbose"}
    return json.dumps(values, sort_keys=True, default=repr)


@functools.cache
def _code() -> bytes:
    """Returns a digest of the sources of the engines: what they do with a model is in no version while it changes."""
    folder = Path(engines.__file__).parent
    sources = (part for file in sorted(folder.glob("*.py")) for part in (file.name, file.read_bytes()))
    return digest([__version__, *sources])  # an installation without sources has its version at least
