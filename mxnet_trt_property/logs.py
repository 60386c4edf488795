"""What the package logs at INFO and above, under `mxnet_trt_property`, and in what form.

INFO has one line for each bind and one for each engine. A warning is given once a process and says what to do. Reasons,
of nodes that stay with MXNet and of engines that were not chosen, are at DEBUG. Nothing is ever printed.
"""

from __future__ import annotations

import logging
import traceback
from typing import Optional

from mxnet_trt_property.errors import brief, message, mxnet_words, next_step_of

log = logging.getLogger("mxnet_trt_property")

_given: set[str] = set()


def warn_once(
    what: str, *, found: str = "", required: str = "", next_step: str, error: Optional[BaseException] = None
) -> None:
    """Logs a warning in the form of `errors.message`, the first time that it is given.

    Args:
        what: What happened, naming the node, engine or file.
        found: What was found.
        required: What would have been right.
        next_step: What the reader can do now.
        error: An exception whose traceback helps to find the cause; it is logged, too.
    """
    text = message(what, found=found, required=required, next_step=next_step)
    if text in _given:
        return
    _given.add(text)
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip() if error else ""
    log.warning("%s", f"{text}\n{trace}" if trace else text)


def warn_of_fallback(what: str, error: BaseException) -> None:
    """Logs a warning, the first time, that MXNet runs a graph after TensorRT nodes of it have failed.

    Args:
        what: What happened.
        error: What MXNet raised; the log has all of it at DEBUG.
    """
    log.debug("%s", what, exc_info=error)
    words = mxnet_words(error)
    step = "set MXNET_TENSORRT_ON_ERROR=raise to stop here, or unset MXNET_SUBGRAPH_BACKEND"
    warn_once(what, found=brief(words), next_step="; or ".join(filter(None, (next_step_of(words), step))))


def debug_once(text: str) -> None:
    """Logs at DEBUG, the first time."""
    if text not in _given:
        _given.add(text)
        log.debug("%s", text)


def tell_engine(
    label: str,
    engine: str,
    how: str,
    *,
    seconds: float,
    size_bytes: int,
    precision: str,
    operators: Optional[int] = None,
) -> None:
    """Logs the line of an engine that is ready.

    Args:
        label: The node that it runs.
        engine: The engine's name.
        how: How it came to be, such as "built".
        seconds: How long that took.
        size_bytes: Its size.
        precision: What it computes in.
        operators: How many of MXNet's operators it runs, where that is known.
    """
    nodes = "" if operators is None else f"{operators} nodes, "
    log.info(
        "%s: %s engine %s in %.2f s, %.1f MB, %s%s", label, engine, how, seconds, size_bytes / 1e6, nodes, precision
    )
