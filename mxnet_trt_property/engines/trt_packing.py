"""What TensorRT has worth keeping: the plan, the GPU code that TensorRT-RTX compiles, and TensorRT's timings.

A plan of TensorRT-RTX runs on each GPU from Ampere on (or on the one kind it was built for); the GPU's own code is
compiled when an execution context is made, which takes longer than the build. TensorRT itself does all of that in the
build, for the GPU that it runs on, and can keep how long each candidate took for the next build.
"""

from __future__ import annotations

import logging
from typing import Any, Optional

from mxnet_trt_property.cache import keys
from mxnet_trt_property.cache.build import Packed, Shelf
from mxnet_trt_property.cache.entry import Entry
from mxnet_trt_property.cuda_driver import Driver
from mxnet_trt_property.engines.trt_build import Library, Plan, TensorSpec
from mxnet_trt_property.errors import TensorRTPropertyError
from mxnet_trt_property.logs import warn_once

_log = logging.getLogger("mxnet_trt_property")

KERNELS = "kernels"
TIMINGS = "timings"


class PackingError(TensorRTPropertyError):
    """An entry does not describe a plan."""


def pack(plan: Plan) -> Packed:
    """Returns a plan as the cache keeps it."""
    specs = {"inputs": plan.inputs, "outputs": plan.outputs}
    return Packed({name: [list(spec) for spec in group] for name, group in specs.items()}, b"", plan.data)


def plan_of(packed: Entry) -> Plan:
    """Returns the plan of an entry.

    Raises:
        PackingError: The entry is not what `pack` makes.
    """
    try:
        rows = {
            name: tuple(TensorSpec(str(n), tuple(int(size) for size in shape), str(dtype)) for n, shape, dtype in specs)
            for name, specs in packed.meta["program"].items()
        }
        return Plan(packed.body or b"", rows["inputs"], rows["outputs"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PackingError(f"it does not describe a plan: {type(error).__name__}: {error}") from error


class Kernels:
    """The GPU code that TensorRT-RTX compiled for one engine on one device, kept between processes.

    The device must be current in each call.
    """

    def __init__(self, library: Library, engine: Any, shelf: Shelf, gpu: str) -> None:
        """Reads what was kept; made with `kernels_of`."""
        self._engine = engine
        self._shelf = shelf
        self._words = (library.full_name, gpu)
        self._cache = engine.create_runtime_config().create_runtime_cache()
        self._kept_bytes = 0
        kept = shelf.get(KERNELS, *self._words)
        if kept is not None:
            if self._cache.deserialize(kept):
                self._kept_bytes = len(kept)
            else:
                _log.info("%s takes no kernels of another installation; they are compiled again", library.full_name)

    def config(self) -> Optional[Any]:
        """Returns what a new execution context is to be made with; each gets one of its own. None: with nothing."""
        try:
            config = self._engine.create_runtime_config()
            config.set_runtime_cache(self._cache)
            return config
        except Exception as error:
            step = "report it; until then the first forward takes seconds longer"
            warn_once("TensorRT-RTX compiles its kernels without their cache", found=str(error), next_step=step)
            return None

    def keep(self) -> None:
        """Writes what was compiled since; an engine that runs is worth more than its kernels' cache."""
        try:
            data = memoryview(self._cache.serialize())
        except Exception as error:
            step = "report it; until then each process compiles the kernels"
            warn_once("TensorRT-RTX cannot tell the kernels that it compiled", found=str(error), next_step=step)
            return
        # Its size tells: kernels are only added, and the bytes of the same ones may differ from run to run.
        if data.nbytes > self._kept_bytes:
            self._kept_bytes = data.nbytes
            self._shelf.put(KERNELS, data.cast("B"), *self._words)


def kernels_of(
    library: Library, engine: Any, driver: Driver, gpu_index: int, shelf: Optional[Shelf]
) -> Optional[Kernels]:
    """Returns where the kernels of an engine are kept; None without a cache, and where the library keeps none."""
    if shelf is None or not hasattr(library.module(), "IRuntimeCache"):
        return None
    try:
        return Kernels(library, engine, shelf, keys.gpu(driver, gpu_index))
    except Exception as error:  # an engine that runs is worth more than its kernels' cache
        step = "report it; until then each process compiles the kernels"
        warn_once(f"{library.full_name} cannot keep its compiled kernels", found=str(error), next_step=step)
        return None


class Timings:
    """TensorRT's timing cache: how long each candidate kernel took, for the next build on the same GPU."""

    def __init__(self, library: Library, shelf: Shelf, gpu: str) -> None:
        self._shelf = shelf
        self._words = (library.full_name, gpu)
        self._cache: Optional[Any] = None
        self._kept_bytes = 0

    def attach(self, config: Any) -> None:
        """Gives a build what was kept; a build goes on without where the library takes none."""
        kept = self._shelf.get(TIMINGS, *self._words, shared=True) or b""
        try:
            self._cache = config.create_timing_cache(kept)
            if self._cache is not None and config.set_timing_cache(self._cache, False):
                self._kept_bytes = len(kept)
                return
            # Timings of another GPU or version: the library looks for itself, too.
            self._cache = config.create_timing_cache(b"")
            config.set_timing_cache(self._cache, False)
        except Exception as error:
            self._cache = None
            step = "report it; until then builds take longer"
            warn_once("TensorRT builds without the timings of earlier builds", found=str(error), next_step=step)

    def keep(self) -> None:
        """Writes what the build added."""
        if self._cache is None:
            return
        data = memoryview(self._cache.serialize())
        if data.nbytes > self._kept_bytes:
            self._shelf.put(TIMINGS, data.cast("B"), *self._words, shared=True)
