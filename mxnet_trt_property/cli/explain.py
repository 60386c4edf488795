"""Tells which nodes of a network TensorRT takes, and why each of the others stays with MXNet.

Nothing is bound or built, and no engine is needed: the registry judges each node, as it does in simple_bind, with the
variables (MXNET_TENSORRT_EXCLUDE_OPS, ...) that are set now. Without --shape nothing is known of the inputs, as in
get_backend_symbol, and what depends on a shape is refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional

from mxnet_trt_property.cli import flops, memory
from mxnet_trt_property.cli.checkpoint import check_names, load_symbol
from mxnet_trt_property.cli.demo import parse_shapes
from mxnet_trt_property.errors import ConversionError, TensorRTPropertyError, message, mxnet_words
from mxnet_trt_property.graph import Entry, Tensor
from mxnet_trt_property.partition import Partition

NAME = "explain"


class ExplainError(TensorRTPropertyError):
    """The network cannot be judged with the shapes that were given."""


@dataclass(frozen=True)
class NodeRow:
    """One operator node: its group is the number of its TensorRT node, or -1; `flops` is an estimate (cli/flops.py)."""

    name: str
    operator: str
    group: int
    reason: Optional[str]
    flops: int


@dataclass(frozen=True)
class Explanation:
    """What became of each node of a network, and what sizes its engines serve where a range is asked for."""

    network: str
    operators: int
    taken: int
    subgraphs: int
    flops: int
    taken_flops: int
    nodes: tuple[NodeRow, ...]
    sizes: tuple[str, ...] = ()


class Verdict(NamedTuple):
    """The decisions for the network in a file, and what is known of its edges."""

    file: Path
    partition: Partition
    tensors: Mapping[Entry, Tensor]
    sizes: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("prefix", help="a checkpoint's PREFIX (PREFIX-symbol.json), or the .json file itself")
    parser.add_argument("--shape", action="append", metavar="NAME=N,C,H,W", default=[], help="an input and its shape")
    parser.add_argument("--nodes", action="store_true", help="list every node, not only operators and reasons")
    parser.add_argument(
        "--memory", action="store_true", help="run PREFIX once in each way, and tell where its weights lie"
    )
    parser.add_argument("--epoch", type=int, default=0, help="the N of PREFIX-N.params, for --memory")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the explanation; returns 0."""
    if arguments.memory:
        held = memory.measure(arguments.prefix, arguments.epoch, parse_shapes(arguments.shape))
        print(json.dumps([row._asdict() for row in held]) if arguments.json else memory.text(held))
        return 0
    record = explain(arguments.prefix, parse_shapes(arguments.shape))
    print(json.dumps(asdict(record)) if arguments.json else text(record, arguments.nodes))
    return 0


def explain(prefix: str, shapes: dict[str, tuple[int, ...]]) -> Explanation:
    """Returns the explanation of a network in a file.

    Args:
        prefix: A checkpoint's prefix, or the symbol's file.
        shapes: The shapes of inputs, by name.

    Raises:
        CheckpointError, ExplainError, SettingError: As `judge` does.
    """
    verdict = judge(prefix, shapes)
    found, work = verdict.partition, flops.estimate(verdict.partition.graph, verdict.tensors)
    rows = tuple(NodeRow(d.node.name, d.node.op, d.group, d.reason, work[i]) for i, d in found.decisions.items())
    taken = sum(row.flops for row in rows if row.reason is None)
    return Explanation(
        str(verdict.file),
        len(rows),
        len(found.taken),
        found.subgraph_count,
        sum(work.values()),
        taken,
        rows,
        verdict.sizes,
    )


def judge(prefix: str, shapes: dict[str, tuple[int, ...]]) -> Verdict:
    """Returns the decisions for a network in a file.

    Args:
        prefix: A checkpoint's prefix, or the symbol's file.
        shapes: The shapes of inputs, by name.

    Raises:
        CheckpointError: The file cannot be read, or a name is not one of the network's.
        ExplainError: The shapes contradict the network.
        SettingError: A variable has a value that is not valid.
    """
    import mxnet as mx

    from mxnet_trt_property import backend, infer
    from mxnet_trt_property.cli import explain_ranges

    file = Path(prefix) if prefix.endswith(".json") else Path(f"{prefix}-symbol.json")
    try:
        symbol = load_symbol(file)
        check_names(symbol, shapes, {})
        dtypes = backend.complete_dtypes(symbol, {})
        found = backend.decide(symbol, shapes, dtypes)
        sizes = explain_ranges.explain(symbol, shapes, dtypes, found)
        return Verdict(file, found, infer.infer_tensors(symbol, shapes, dtypes), sizes)
    except (OSError, ConversionError, mx.MXNetError) as error:
        step = "--shape NAME=N,C,H,W with what the network was made for" if shapes else ""
        raise ExplainError(message(f"{file} cannot be explained", found=mxnet_words(error), next_step=step)) from error


def text(record: Explanation, all_nodes: bool = False) -> str:
    """Returns the record as the text that the command prints."""
    share = record.taken / record.operators if record.operators else 0.0
    lines = [
        f"{record.network}: {record.taken} of {record.operators} nodes taken ({share:.0%}), "
        f"in {record.subgraphs} TensorRT node(s)",
    ]
    if record.flops:
        lines.append(
            f"about {record.flops:.3g} FLOPs, {record.taken_flops / record.flops:.1%} of them in TensorRT nodes"
        )
    lines += [*record.sizes, ""]
    operators = sorted({row.operator for row in record.nodes})
    rows = [("operator", "nodes", "taken", "FLOPs")]
    for operator in operators:
        members = [row for row in record.nodes if row.operator == operator]
        work = f"{sum(row.flops for row in members) / record.flops:.1%}" if record.flops else "unknown"
        rows.append((operator, str(len(members)), str(sum(row.reason is None for row in members)), work))
    lines += _columns(rows)
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in record.nodes:
        if row.reason is not None:
            reasons.setdefault((row.operator, row.reason), []).append(row.name)
    if reasons:
        lines += ["", "left with MXNet:"]
    for (operator, reason), names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"  {operator}: {reason} ({', '.join(names[:3])}{more})")
    if all_nodes:
        table: list[Any] = [("node", "operator", "")]
        table += [(row.name, row.operator, row.reason or f"in TensorRT node {row.group}") for row in record.nodes]
        lines += ["", *_columns(table)]
    return "\n".join(lines)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths)).rstrip() for row in rows]
