"""The times of a TensorRT engine's layers and copies: TensorRT's IProfiler on an execution context of its own.

Here no graph is captured, and the library marks the begin and end of each layer on the stream: the sum of the layers
exceeds what the engine takes by itself, most of all where layers are small.
"""

from __future__ import annotations

import collections
import contextlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mxnet_trt_property.cuda_driver import Driver
from mxnet_trt_property.cuda_events import Stopwatch
from mxnet_trt_property.engines.layers import WARM_UP, LayerTimes, median_ms, medians
from mxnet_trt_property.engines.registry import Buffer
from mxnet_trt_property.engines.trt_build import Library
from mxnet_trt_property.errors import EngineError, message

if TYPE_CHECKING:
    from mxnet_trt_property.engines.trt_run import TensorRTRunner

Arrays = Sequence["np.ndarray[Any, Any]"]


def run(runner: TensorRTRunner, inputs: Arrays, outputs: Arrays) -> tuple[list[Buffer], list[Buffer]]:
    """Runs once on host arrays, and returns them as buffers."""
    ins, outs = ([Buffer(a.ctypes.data, a.shape, a.dtype) for a in group] for group in (inputs, outputs))
    runner.run(ins, outs, 0)
    return ins, outs


def run_ms(runner: TensorRTRunner, inputs: Arrays, outputs: Arrays, runs: int) -> float:
    """Returns the median milliseconds of a run on host arrays: the captured one where there is one."""
    ins, outs = run(runner, inputs, outputs)
    with contextlib.suppress(EngineError):  # a run that cannot be captured is queued anew each time
        return median_ms(runner.bare(ins, outs), runs)
    return median_ms(lambda: runner.run(ins, outs, 0), runs)


def layer_times(
    library: Library, driver: Driver, runner: TensorRTRunner, context: Any, engine: Any, whole_ms: float, runs: int
) -> LayerTimes:
    """Times the layers and the copies of a runner for host arrays that has run once. The device must be current.

    Args:
        library: The bindings.
        driver: The CUDA driver.
        runner: The runner; it must not be used for anything else after this.
        context: Its execution context.
        engine: Its engine.
        whole_ms: What one run takes, from `run_ms`.
        runs: How many runs are timed.
    """
    trt = library.module()
    times: dict[str, list[float]] = collections.defaultdict(list)

    try:
        # The context has a bare pointer to it, and is not told when it goes.
        runner.profiler = context.profiler = _profiler(trt, times)
    except Exception as error:  # the bindings turn what the library refuses into several types
        raise EngineError(message(f"{library.full_name} cannot time layers", found=str(error))) from error
    copies_in, copies_out = [], []
    for number in range(WARM_UP + runs):
        if number == WARM_UP:
            times.clear()
        copies_in.append(_copy_ms(driver, runner.stream, runner.copy_in))
        runner.enqueue_parts(runner.stream, copies_in=False, copies_out=False)
        driver.synchronize(runner.stream)
        copies_out.append(_copy_ms(driver, runner.stream, runner.copy_out))
    return LayerTimes(
        medians(times, _known(trt, engine)),
        whole_ms,
        statistics.median(copies_in[WARM_UP:]),
        statistics.median(copies_out[WARM_UP:]),
    )


def _profiler(trt: Any, times: dict[str, list[float]]) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]  # the base class is only known at run time
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times[layer_name].append(float(ms))

    return Profiler()


def _copy_ms(driver: Driver, stream: int, copy: Callable[[int], None]) -> float:
    with Stopwatch(driver, stream) as watch:
        watch.mark()
        copy(stream)
        watch.mark()
        (found,) = watch.milliseconds()
    return found


def _known(trt: Any, engine: Any) -> Mapping[str, tuple[str, str]]:
    """Returns for each layer its type and what the library tells of the ONNX nodes in it, where it tells anything."""
    inspector = engine.create_engine_inspector() if hasattr(engine, "create_engine_inspector") else None
    if inspector is None:
        return {}
    try:
        layers = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))["Layers"]
        described = [layer for layer in layers if isinstance(layer, dict)]
        return {layer["Name"]: (layer.get("LayerType", ""), layer.get("Metadata", "")) for layer in described}
    except (ValueError, KeyError, TypeError):
        return {}  # versions differ in what they write; the layers' own names are left
