"""Calibration for int8: ONNX Runtime's calibrators collect the ranges of the values that are quantized."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Optional

import numpy as np
import onnx

from mxnet_trt_property import forks
from mxnet_trt_property.errors import EngineError, message
from mxnet_trt_property.precision.graphs import fold_transpositions
from mxnet_trt_property.precision.runtime import Feed, tool
from mxnet_trt_property.precision.tables import checked

_log = logging.getLogger("mxnet_trt_property")

QUANTIZED_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""ONNX operators that compute in int8 where their weights are constants."""

# Of the histogram of one tensor; ONNX Runtime's own 128 leave its entropy method one choice, the full range.
_BINS = 1024


class Collector:
    """Runs a float32 model on sample inputs and collects the ranges of what int8 would quantize.

    Args:
        model: A serialized ONNX model with its weights, not converted.
        method: "entropy" (the range whose quantized distribution loses least) or "minmax".
        label: What messages call the model.

    Raises:
        EngineError: ONNX Runtime is missing, or refuses the model.
    """

    def __init__(self, model: bytes, method: str, label: str) -> None:
        self._label = label
        self.method = method
        self.batches = 0
        self._tools = tool("quantization.calibrate", label)
        # It prints its progress; a name in the module goes before the builtin, and standard output is the program's.
        self._tools.print = _debug
        proto = onnx.load_from_string(model)
        fold_transpositions(proto.graph)
        self.values = tuple(sorted({n.input[0] for n in proto.graph.node if n.op_type in QUANTIZED_OPERATORS}))
        self._calibrator: Any = None
        if not self.values:
            return
        kind = self._tools.CalibrationMethod.Entropy if method == "entropy" else self._tools.CalibrationMethod.MinMax
        try:
            # Its interface is one of files.
            with tempfile.TemporaryDirectory(prefix="mxnet-trt-") as folder:
                source, augmented = Path(folder, "model.onnx"), Path(folder, "augmented.onnx")
                source.write_bytes(proto.SerializeToString())
                self._calibrator = self._tools.create_calibrator(
                    source,
                    list(QUANTIZED_OPERATORS),
                    str(augmented),
                    kind,
                    extra_options={"num_bins": _BINS, "num_quantized_bins": 128},
                )
        except Exception as error:  # its exception types share no base of their own
            raise self._error(error) from error

    def add(self, feed: Feed) -> None:
        """Runs one batch.

        Raises:
            EngineError: The model could not be run.
        """
        if self._calibrator is not None:
            try:
                self._calibrator.collect_data(_Reader(feed))
            except Exception as error:
                raise self._error(error) from error
        self.batches += 1

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Returns the range of each value that int8 quantizes, by its ONNX name.

        Raises:
            EngineError: A value was not finite, or nothing was run.
        """
        if self._calibrator is None:
            return {}
        try:
            data = self._calibrator.compute_data()
            found = {name: np.ravel(data[name].range_value) for name in self.values if name in data}
            return checked({name: (float(low), float(high)) for name, (low, high) in found.items()})
        except Exception as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> EngineError:
        return EngineError(
            message(
                f"{self._label} cannot be calibrated for int8",
                found=f"{type(error).__name__}: {error}",
                next_step="calibrate on inputs with finite values, or set MXNET_TENSORRT_PRECISION=fp16",
            )
        )


def _debug(*words: object) -> None:
    _log.debug("%s", " ".join(map(str, words)))


class _Reader:
    """One batch, in the form that ONNX Runtime's calibrators read."""

    def __init__(self, feed: Feed) -> None:
        self._feed: Optional[dict[str, Any]] = dict(feed)

    def get_next(self) -> Optional[dict[str, Any]]:
        feed, self._feed = self._feed, None
        return feed


class Progress:
    """The calibration of one subgraph with one set of weights on its first forwards, by whichever state runs them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.collector: Optional[Collector] = None
        self.ranges: Optional[dict[str, tuple[float, float]]] = None


_KEPT = 64
_progress: OrderedDict[tuple[Any, ...], Progress] = OrderedDict()
_lock = threading.Lock()


def progress(key: tuple[Any, ...]) -> Progress:
    """Returns the calibration under `key`, a new one for a new key. Gluon may make a state at every forward."""
    with _lock:
        found = _progress.setdefault(key, Progress())
        _progress.move_to_end(key)
        while len(_progress) > _KEPT:
            _progress.popitem(last=False)
        return found


@forks.in_child
def _leave_behind() -> object:
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have held it, or one of those in the table
    left = list(_progress.values())
    _progress.clear()
    return left
