"""The sessions of this process by the numbers of their operator states, as the native callbacks know them."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mxnet_trt_property import dynamic_shapes, forks, freezing, native, settings, subgraph
from mxnet_trt_property.engines.registry import Device
from mxnet_trt_property.logs import warn_once
from mxnet_trt_property.profiling import Section
from mxnet_trt_property.session import Report, Session

LABEL_ATTRIBUTE = "__tensorrt_name__"
OPTION_PREFIX = "__tensorrt_option_"

_sessions: dict[int, Session] = {}
_past: dict[str, Report] = {}
_sessions_lock = threading.Lock()
_next_id = itertools.count(1)
_collecting = threading.local()


def create(
    text: str, attrs: Mapping[str, str], on_gpu: bool, dev_id: int, shapes: list[tuple[int, ...]], dtypes: list[int]
) -> native.Created:
    """Makes the session for one operator state; see `native.Handlers.create`."""
    options = {k[len(OPTION_PREFIX) : -2]: v for k, v in attrs.items() if k.startswith(OPTION_PREFIX)}
    config = settings.read(options)
    label = attrs.get(LABEL_ATTRIBUTE, "a TensorRT node")
    frozen = freezing.restore(text, attrs, shapes, dtypes, label)
    with Section("convert", label):
        graph = subgraph.read(frozen.text, frozen.shapes, frozen.dtypes, label)
    device = Device("gpu" if on_gpu else "cpu", dev_id, dev_id if on_gpu else config.device)
    sizes = attrs.get(dynamic_shapes.ATTRIBUTE)
    fitted = dynamic_shapes.find(sizes, frozen.text, frozen.shapes, frozen.dtypes, graph, label)
    session = Session(label, graph, frozen, config, device, fitted)
    with _sessions_lock:
        state_id = session.state_id = next(_next_id)
        _sessions[state_id] = session
    collected = getattr(_collecting, "sessions", None)
    if collected is not None:
        collected.append(session)
    return native.Created(state_id, session.arrays.roles)


@contextmanager
def collect() -> Iterator[list[Session]]:
    """Gives the sessions that this thread's binds make inside."""
    outer = getattr(_collecting, "sessions", None)
    found: list[Session] = []
    _collecting.sessions = found
    try:
        yield found
    finally:
        _collecting.sessions = outer


def forward(state_id: int, inputs: Any, num_in: int, outputs: Any, num_out: int, stream: int, changed: bool) -> None:
    """Runs a session; see `native.Handlers.forward`."""
    session = _sessions[state_id]
    with Section("forward", session.label):
        session.forward(inputs, outputs, num_out, stream, changed)


def destroy(state_id: int) -> None:
    """Forgets a session; see `native.Handlers.destroy`."""
    with _sessions_lock:
        session = _sessions.pop(state_id, None)
    if session is not None:
        _past[session.label] = session.report
        with session._busy:  # another session may be taking its engine away
            session.close()


@forks.in_child
def _leave_behind() -> object:
    global _sessions_lock
    _sessions_lock = threading.Lock()  # a thread of the parent may have held it
    return [session.leave_behind() for session in _sessions.values()]


def reports() -> tuple[Report, ...]:
    """Returns what the sessions that are alive did so far, oldest first."""
    with _sessions_lock:
        return tuple(s.report for s in _sessions.values())


def write_report() -> None:
    """Writes the file that MXNET_TENSORRT_REPORT names: the sessions alive, and of the ended ones the last of a label.

    Does nothing where the variable is unset.
    """
    path = settings.value("REPORT")
    if path is None:
        return
    alive = reports()
    ended = [r for label, r in _past.items() if label not in {a.label for a in alive}]
    try:
        path.write_text(json.dumps([r._asdict() for r in (*ended, *alive)], indent=1) + "\n")
    except OSError as error:
        warn_once(
            "The report asked for by MXNET_TENSORRT_REPORT cannot be written",
            found=str(error),
            next_step="name a file in a folder that is there and may be written to",
        )
