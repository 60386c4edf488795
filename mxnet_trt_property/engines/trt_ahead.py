"""TensorRT-RTX without a GPU: an engine that builds for other machines' GPUs, and runs nothing.

It stands in for the real one while a network is bound and run once (`cli/build.py`). So each subgraph takes the same
way to the cache as in a program, with the same key. Its outputs are zeros.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Optional

from mxnet_trt_property.cache.build import Packed, Shelf
from mxnet_trt_property.cache.entry import Entry
from mxnet_trt_property.engines import trt_packing
from mxnet_trt_property.engines.registry import Buffer, Device, Options, Shapes, check_precision
from mxnet_trt_property.engines.trt import variant
from mxnet_trt_property.engines.trt_build import Plan, library
from mxnet_trt_property.errors import EngineError, message


class AheadEngine:
    """Builds for one kind of GPU, here or elsewhere.

    Args:
        module: The bindings module.
        compute_capability: The kind of GPU, such as "8.6"; empty for all from Ampere on.

    Attributes:
        built: What was built, and the size of each plan.
        found: What the cache had already.
    """

    name = "tensorrt_rtx"
    keeps_body = True
    takes_profiles = True

    def __init__(self, module: str = "tensorrt_rtx", compute_capability: str = "") -> None:
        self._library = library(module)
        self._targets = (compute_capability,) if compute_capability else ()
        self.built: dict[str, int] = {}
        self.found: dict[str, int] = {}

    def version(self) -> str:
        """Returns the library's version, or "" where it is not installed."""
        return self._library.version

    def unusable(self, device: Device) -> Optional[str]:
        """Returns why the library cannot build, or None; no GPU is needed."""
        try:
            self._library.module()
        except EngineError as error:
            return str(error)
        return None if device.kind == "cpu" else "an engine is built ahead of time for arrays of mx.cpu() only"

    def refused_nodes(self, model: bytes) -> dict[str, str]:
        """Returns the nodes that the parser refuses, with its reasons, as on the machine that runs the engine."""
        return self._library.refused_nodes(model)

    def cache_variants(self, device: Device) -> tuple[str, ...]:
        """Returns the kind of GPU that is built for."""
        return (variant(self._targets),)

    def build(self, model: bytes, options: Options, device: Device, label: str) -> AheadProgram:
        """Refuses: what is not kept serves nobody."""
        raise EngineError(
            message(
                f"{label} was not built ahead of time",
                found="a cache folder that cannot be used",
                next_step="mxnet-trt doctor tells what is wrong with it",
            )
        )

    def build_packed(
        self, model: bytes, options: Options, device: Device, label: str, shelf: Shelf, keep: Callable[[Packed], None]
    ) -> AheadProgram:
        """Builds and keeps the plan.

        Raises:
            EngineError: The parser refused a node, or the build failed.
        """
        check_precision(self.name, options, label)
        plan = self._library.build(model, label, options.workspace_bytes, self._targets, options.profile)
        keep(trt_packing.pack(plan))
        self.built[label] = len(plan.data)
        return AheadProgram(plan)

    def unpack(self, packed: Entry, options: Options, device: Device, label: str, shelf: Shelf) -> AheadProgram:
        """Returns the program of an entry that is there already."""
        plan = trt_packing.plan_of(packed)
        self.found[label] = len(plan.data)
        return AheadProgram(plan)


class AheadProgram:
    """A plan that is not for this machine."""

    def __init__(self, plan: Plan) -> None:
        self.size_bytes = len(plan.data)

    def runner(self, device: Device) -> AheadRunner:
        """Returns a runner that writes zeros."""
        return AheadRunner()

    def runner_for(self, device: Device, shapes: Shapes) -> AheadRunner:
        """Returns such a runner for arrays of any shape."""
        return AheadRunner()

    def close(self) -> None:
        """Has nothing to free."""


class AheadRunner:
    """Writes zeros in the place of results: what follows a node may want values to run."""

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], stream: int) -> None:
        """Fills the outputs with zeros."""
        for buffer in outputs:
            ctypes.memset(buffer.address, 0, math.prod(buffer.shape) * buffer.dtype.itemsize)

    def close(self) -> None:
        """Has nothing to free."""
