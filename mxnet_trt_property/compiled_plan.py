"""What `compile` knows of a network before it rewrites it in another precision: a table, or samples to look at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Union

import numpy as np

from mxnet_trt_property import settings
from mxnet_trt_property.convert import ConvertedModel
from mxnet_trt_property.errors import SettingError, message
from mxnet_trt_property.precision import calibration as calibrations
from mxnet_trt_property.precision import rewriting, tables
from mxnet_trt_property.precision.plans import Plan
from mxnet_trt_property.precision.runtime import Feed

Calibration = Union[str, "os.PathLike[str]", Mapping[str, Any], Iterable[Any], None]
"""A calibration table's path, one sample, or several: a sample is an array, or arrays by the inputs' names."""


def make(
    onnx: bytes,
    model: ConvertedModel,
    names: tuple[str, ...],
    config: settings.Settings,
    calibration: Calibration,
    label: str,
) -> Plan:
    """Returns the plan of a network.

    Args:
        onnx: The serialized ONNX model.
        model: What it was serialized from.
        names: The network's names of the model's inputs.
        config: The settings.
        calibration: See `compiled.compile`.
        label: What messages call the model.

    Raises:
        SettingError: Precision int8 lacks a calibration, or a sample does not fit the inputs.
        EngineError: ONNX Runtime is missing, or refuses the model or the samples.
    """
    kind, table, feed = config.precision, None, None
    is_path = isinstance(calibration, (str, os.PathLike))
    samples = [] if calibration is None or is_path else _samples(calibration, model, names, label)
    if kind == "int8":
        path = Path(os.fspath(calibration)) if is_path else config.calibration_table  # type: ignore[arg-type]
        if samples:
            collector = calibrations.Collector(onnx, config.calibration_method, label)
            for sample in samples:
                collector.add(sample)
            table = tables.by_key(collector.ranges(), model.value_keys)
        elif path is None:
            raise SettingError(
                message(
                    f"{label} cannot be compiled in int8 without the ranges of its values",
                    next_step="pass calibration=, a table of mxnet-trt calibrate or samples of the input",
                )
            )
        else:
            table = tables.load(path)
    elif samples:
        feed = samples[0]
    return rewriting.plan(
        onnx, kind, config.keep_fp32, label, feed=feed, table=table, keys=model.value_keys, owners=model.node_names
    )


def _samples(calibration: Any, model: ConvertedModel, names: tuple[str, ...], label: str) -> list[Feed]:
    is_one = isinstance(calibration, Mapping) or hasattr(calibration, "dtype")
    return [_feed(sample, model, names, label) for sample in ([calibration] if is_one else calibration)]


def _feed(sample: Any, model: ConvertedModel, names: tuple[str, ...], label: str) -> Feed:
    """Returns a sample by the names of the ONNX model's inputs."""
    given = dict(sample) if isinstance(sample, Mapping) else dict(zip(names[:1], [sample]))
    feed = {}
    for name, port in zip(names, model.inputs):
        value = given.get(name)
        array = None if value is None else value.asnumpy() if hasattr(value, "asnumpy") else np.asarray(value)
        if array is None or array.shape != port.shape:
            raise SettingError(
                message(
                    f"calibration= of {label} has a sample that does not fit input '{name}'",
                    found="nothing" if array is None else f"shape {array.shape}",
                    required=f"shape {port.shape}",
                    next_step="give arrays by name, a batch of the compiled shape in each sample",
                )
            )
        feed[port.name] = array.astype(port.dtype)
    return feed
