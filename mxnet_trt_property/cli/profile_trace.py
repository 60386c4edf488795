"""A profile as a timeline in the trace event format, which Perfetto opens (seen with its version 52).

The format is Google's ("Trace Event Format"): an object with a list `traceEvents`. Here these are metadata ("ph": "M",
names of the process and of its threads) and complete events ("ph": "X"), whose `ts` and `dur` are microseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxnet_trt_property.cli.profile import NodeRow, Profile

_PROCESS = 1
_FORWARD = 1  # the thread of forward; each TensorRT node has the next one


def trace(record: Profile) -> dict[str, Any]:
    """Returns the timeline of one forward: medians, one behind the other, TensorRT nodes on a thread each.

    MXNet's part comes first; how it is spread over the forward is not known.
    """
    events = [
        _metadata("process_name", 0, f"mxnet-trt profile {record.network}"),
        _metadata("thread_name", _FORWARD, "forward"),
        _complete("forward", _FORWARD, 0.0, _forward_ms(record), runs=record.runs, measured_ms=record.forward_ms),
    ]
    if record.mxnet_ms:
        events.append(_complete("MXNet", _FORWARD, 0.0, record.mxnet_ms, operators=record.operators_left))
    start = record.mxnet_ms
    for number, node in enumerate(record.nodes):
        thread = _FORWARD + 1 + number
        events.append(_metadata("thread_name", thread, f"{node.name} on {node.engine}"))
        events.append(_complete(node.name, _FORWARD, start, node.run_ms, engine=node.engine, operators=node.operators))
        events += _inside(node, thread, start)
        start += node.run_ms
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _forward_ms(record: Profile) -> float:
    """The nodes by themselves may take longer than they do in forward; what they stand under must hold them."""
    return max(record.forward_ms, record.mxnet_ms + sum(node.run_ms for node in record.nodes))


def _inside(node: NodeRow, thread: int, start: float) -> list[dict[str, Any]]:
    parts: list[tuple[str, float, dict[str, Any]]] = [("copies in", node.copy_in_ms, {})] if node.copy_in_ms else []
    for row in node.layers:
        arguments = {"layer": row.layer, "kind": row.kind, "nodes": list(row.nodes)}
        parts.append((" + ".join(row.nodes) or row.layer, row.milliseconds, arguments))
    parts += [("copies out", node.copy_out_ms, {})] if node.copy_out_ms else []
    events = []
    for name, milliseconds, arguments in parts:
        events.append(_complete(name, thread, start, milliseconds, **arguments))
        start += milliseconds
    return events


def _metadata(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": _PROCESS, "tid": thread, "ts": 0, "args": {"name": name}}


def _complete(name: str, thread: int, start_ms: float, milliseconds: float, **arguments: Any) -> dict[str, Any]:
    return {
        "ph": "X", "name": name, "cat": "mxnet-trt", "pid": _PROCESS, "tid": thread,
        "ts": start_ms * 1e3, "dur": milliseconds * 1e3, "args": arguments,
    }  # fmt: skip
