"""The symbol that an executor is bound of: partitioned for TensorRT, or MXNet's as it is, and a line that says why."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Optional

from mxnet.base import MXNetError

from mxnet_trt_property import backend, dynamic_shapes, infer, partition, ranges, settings
from mxnet_trt_property.errors import SettingError, message
from mxnet_trt_property.generalize import NotGeneralError
from mxnet_trt_property.logs import log, warn_once
from mxnet_trt_property.profiling import Section
from mxnet_trt_property.stock import stock


def partitioned(
    symbol: Any,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, Any],
    options: Optional[Mapping[str, str]] = None,
    context: Any = None,
    data: Optional[frozenset[str]] = None,
) -> Optional[backend.Partitioned]:
    """Returns the partitioned symbol, or None where MXNet should bind the symbol as it is.

    Args:
        symbol: The program's symbol.
        shapes: The shapes of arguments, as far as known.
        dtypes: The dtypes of arguments, as far as known.
        options: Options of the backend by name, which go before the variables.
        context: Where the executor's arrays lie.
        data: The arguments whose shapes the program gives; None where that is not known.

    Raises:
        SettingError: A setting or an option is not valid.
        Exception: Whatever the partition raised, if MXNET_TENSORRT_ON_ERROR is 'raise'.
    """
    try:
        if infer.has_dynamic_shapes(symbol, shapes):
            warn_once(
                "some shapes in a graph are known only while it runs (control flow, boolean masks), and engines are "
                "made for shapes that are known before: the graph is left to MXNet",
                next_step="bind the part without control flow by itself, or unset MXNET_SUBGRAPH_BACKEND",
            )
            return None
        dtypes = backend.complete_dtypes(symbol, dtypes)
        with Section("partition", "a graph"):
            decisions = backend.decide(symbol, shapes, dtypes, options, context)
        _tell_bind(decisions, options, context)
        for decision in decisions.refused:
            log.debug("%s (%s) stays with MXNet: %s", decision.node.name, decision.node.op, decision.reason)
        flexible = _flexible(symbol, shapes, dtypes, options, data) if decisions.taken else None
        made = backend.build(symbol, decisions, options, stock.optimize_for, flexible)
    except SettingError:
        raise
    except MXNetError as error:
        # Shapes that contradict the symbol: the stock bind says so in its own words, and raises.
        warn_once(
            "A graph could not be partitioned for TensorRT, since MXNet's inference of its shapes failed",
            found=str(error),
            next_step="correct the shapes and dtypes that the network is bound with",
        )
        return None
    except Exception as error:
        if settings.value("ON_ERROR") == "raise":
            raise
        warn_once(
            "A graph could not be partitioned for TensorRT; MXNet runs all of it",
            found=f"{type(error).__name__}: {error}",
            next_step="set MXNET_TENSORRT_ON_ERROR=raise to stop here, or unset MXNET_SUBGRAPH_BACKEND",
            error=error,
        )
        return None
    return None if made is None else dataclasses.replace(made, data=data)


def _flexible(
    symbol: Any,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, Any],
    options: Optional[Mapping[str, str]],
    data: Optional[frozenset[str]],
) -> Optional[ranges.Flexible]:
    """Returns the graph's shapes over the range that the settings ask for; says once where it can have no other sizes.

    Raises:
        SettingError: The option `profiles` names an input that the symbol does not have.
    """
    config = settings.read(options)
    if not ranges.wanted(config):
        return None
    unknown = sorted({name for name, _ in config.profiles} - set(symbol.list_arguments()))
    if unknown and "profiles" in (options or {}):
        raise SettingError(
            message(
                "The option profiles of the TensorRT backend names inputs that the network does not have",
                found=", ".join(unknown),
                required="names out of " + ", ".join(sorted(data or symbol.list_arguments())[:20]),
            )
        )
    try:
        return ranges.find(symbol, shapes, dtypes, config, data)
    except NotGeneralError as error:
        dynamic_shapes.tell("a network", str(error))
        return None


def _tell_bind(decisions: partition.Partition, options: Optional[Mapping[str, str]], context: Any) -> None:
    """Logs the one line of a bind."""
    if not log.isEnabledFor(logging.INFO):
        return
    config = settings.read(options)
    engine = backend.first_engine(config, context)
    log.info("bind: %s; engine %s, %s", decisions.summary(), engine.name if engine else "none", config.precision)
