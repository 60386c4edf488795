"""Tells whether one engine of each TensorRT node serves the range that MAX_BATCH_SIZE or PROFILES ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxnet_trt_property import convert, ranges, settings, support
from mxnet_trt_property.errors import ConversionError
from mxnet_trt_property.generalize import generalize
from mxnet_trt_property.partition import Partition


def explain(
    symbol: Any, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, Any], partition: Partition
) -> tuple[str, ...]:
    """Returns a line for each TensorRT node; none where no range is asked for.

    Args:
        symbol: The network.
        shapes: The shapes of its inputs.
        dtypes: The dtypes of all arguments.
        partition: The decisions for these shapes.
    """
    config = settings.read()
    if not ranges.wanted(config) or not shapes:
        return ()
    try:
        flexible = ranges.find(symbol, shapes, dtypes, config, set(shapes))
    except ConversionError as error:
        return (f"one engine per shape, because {error}",)
    if flexible is None:
        return ("one engine per shape, because no input is named by PROFILES",)
    graph, roles = partition.graph, convert.variable_roles(partition.graph, lambda node: True)
    lines = []
    for number, group in sorted(partition.members.items()):
        try:
            models = []
            for tensors in flexible.tensors:
                inner, known, inner_roles = support.cut(graph, tensors, roles, group)
                models.append(convert.convert(inner, known, inner_roles, f"TensorRT node {number}"))
            template = generalize(models, flexible.points, flexible.ranges)
            lines.append(f"one engine of TensorRT node {number} serves inputs of {template.describe()}")
        except ConversionError as error:
            lines.append(f"TensorRT node {number} has one engine per shape, because {error}")
    return tuple(lines)
