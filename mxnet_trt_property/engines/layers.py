"""What a program can tell of its layers' times, and whose nodes an engine's layers are.

An engine fuses, splits and renames the nodes of an ONNX model; what is left of their names is all that ties a layer to
MXNet's nodes.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from mxnet_trt_property.engines.registry import Device

# Runs that are not counted: memory is allocated, and code is made.
WARM_UP = 3


class Layer(NamedTuple):
    """One layer of an engine.

    Attributes:
        name: The engine's own name of it.
        kind: The engine's name of what it does; may be empty.
        origin: What the engine says of the ONNX nodes it was made of; may be empty.
        milliseconds: Its median time in one run.
    """

    name: str
    kind: str
    origin: str
    milliseconds: float


@dataclass(frozen=True)
class LayerTimes:
    """Where the time of a program goes. Times are medians over the runs, in milliseconds.

    Attributes:
        layers: The layers in the order in which they ran; empty where the engine tells of none.
        run_ms: One run as programs get it, with its copies and without anything that measures layers.
        copy_in_ms: Its copies of the inputs to the device; 0 where the engine reads host memory.
        copy_out_ms: Its copies of the outputs back.
    """

    layers: tuple[Layer, ...]
    run_ms: float
    copy_in_ms: float = 0.0
    copy_out_ms: float = 0.0

    @property
    def layers_ms(self) -> float:
        """The sum over the layers. They are measured one by one, so it may exceed what they take together."""
        return sum(layer.milliseconds for layer in self.layers)


@runtime_checkable
class ProfiledProgram(Protocol):
    """A program that can time its layers, if it was built with Options.layer_times."""

    def layer_times(self, device: Device, runs: int) -> LayerTimes:
        """Runs the program on inputs of its own: random numbers, zeros where they are no floating-point numbers.

        Raises:
            EngineError: The engine failed, or the program was built without Options.layer_times.
        """


def random_array(shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Returns what a program is fed to be timed: real numbers, since zeros can be faster; zeros as indices."""
    if dtype.kind != "f":
        return np.zeros(shape, dtype)
    return np.random.default_rng(5).standard_normal(tuple(shape)).astype(dtype)


def median_ms(call: Callable[[], Any], runs: int) -> float:
    """Returns the median milliseconds of a call, after some to warm up."""
    times = []
    for _ in range(WARM_UP + runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:]) * 1e3


def medians(times: Mapping[str, Sequence[float]], known: Mapping[str, tuple[str, str]]) -> tuple[Layer, ...]:
    """Returns the layers of lists of milliseconds by name; `known` has kind and origin of those that have any."""
    return tuple(Layer(name, *known.get(name, ("", "")), statistics.median(found)) for name, found in times.items())


class NodeNames:
    """Finds the MXNet nodes of a layer.

    Args:
        owners: For each name that an engine may use, of an ONNX node or of a value, the MXNet node it comes from.
    """

    def __init__(self, owners: Mapping[str, str]) -> None:
        self._owners = owners
        # The longest first: one name may begin with another one.
        parts = (re.escape(name) for name in sorted(owners, key=len, reverse=True) if name)
        self._pattern = (
            re.compile(r"(?<![A-Za-z0-9/.])(?:" + "|".join(parts) + r")(?![A-Za-z0-9/.])") if owners else None
        )

    def find(self, layer: Layer) -> tuple[str, ...]:
        """Returns the names of MXNet's nodes in the order in which the engine names them; () where it names none."""
        if layer.name in self._owners:
            return (self._owners[layer.name],)
        for text in (layer.origin, layer.name):
            found = self._pattern.findall(text) if self._pattern is not None else []
            if found:
                return tuple(dict.fromkeys(self._owners[name] for name in found))
        return ()
