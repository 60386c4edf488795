"""Where the weights of a network lie after its first forward, for each way of running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mxnet_trt_property import settings
from mxnet_trt_property.cli import checkpoint
from mxnet_trt_property.environment import environment


class Row(NamedTuple):
    """Bytes of weights after the first forward.

    Attributes:
        way: How the network was run.
        mxnet: In arrays of MXNet's.
        engine: The size of the engines, which hold their weights.
        twice: In arrays of MXNet's and in an engine.
    """

    way: str
    mxnet: int
    engine: int
    twice: int


def measure(prefix: str, epoch: int, shapes: Mapping[str, tuple[int, ...]]) -> list[Row]:
    """Runs a checkpoint once in each way.

    Args:
        prefix: The checkpoint's prefix.
        epoch: Its number.
        shapes: The shapes of the inputs, by name.

    Raises:
        CheckpointError: The checkpoint cannot be read, or the shapes do not fit it.
    """
    import mxnet as mx

    symbol, arguments, auxiliary = checkpoint.load(prefix, epoch, shapes)

    def plain() -> Any:
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
        executor.copy_params_from(arguments, auxiliary, allow_extra_params=True)
        return executor

    def frozen() -> Any:
        return mx.contrib.tensorrt.tensorrt_bind(symbol, mx.cpu(), {**arguments, **auxiliary}, **shapes)

    ways: dict[str, Callable[[], Any]] = {"simple_bind": plain, "tensorrt_bind, optimize_for": frozen}
    rows = []
    with environment({settings.BACKEND_VARIABLE: settings.BACKEND}):
        for way, bind in ways.items():
            executor = bind()
            executor.forward()[0].wait_to_read()
            state = getattr(executor, "tensorrt", None)
            reports = [member.report for member in state.sessions] if state is not None else []
            arrays = {**executor.arg_dict, **executor.aux_dict}
            held = sum(a.size * a.dtype(0).itemsize for k, a in arrays.items() if k in arguments or k in auxiliary)
            rows.append(Row(way, held, sum(r.engine_bytes for r in reports), sum(r.weight_bytes for r in reports)))
    return rows


def text(rows: Sequence[Row]) -> str:
    """Returns the rows as a table in MB."""
    lines = [f"{'MB of weights after the first forward':<38}{'in MXNet':>10}{'in engines':>12}{'in both':>10}"]
    for row in rows:
        lines.append(f"{row.way:<38}{row.mxnet / 1e6:>10.1f}{row.engine / 1e6:>12.1f}{row.twice / 1e6:>10.1f}")
    return "\n".join(lines)
