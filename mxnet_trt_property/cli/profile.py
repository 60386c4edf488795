"""Tells where the time of a network goes: layers inside the engines, copies, and MXNet around them.

The checkpoint is bound as a program with MXNET_SUBGRAPH_BACKEND=TensorRT binds it, with arrays on mx.cpu(). Then

  forward    executor.forward() with the data in place, and the wait for its results
  a node     one run of a TensorRT node's engine by itself, as MXNet starts it: with its copies, as one captured graph
  copies     the copies of its inputs to the GPU and of its outputs back, by themselves
  layers     what the engine's own profiler says of each layer (TensorRT's IProfiler, ONNX Runtime's profiling), under
             the names of the MXNet nodes that went into it, where the engine tells them
  MXNet      the rest of forward: operators that stay with MXNet, and its work around the engines

Each time is a median over the runs. Layers are measured one by one, so their sum exceeds what they take together.
Inputs are random numbers. --trace writes the timeline of one forward in the trace event format, for
https://ui.perfetto.dev; there, too, layers stand one behind the other.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mxnet_trt_property import settings
from mxnet_trt_property.cli import bench_variants, checkpoint, profile_trace
from mxnet_trt_property.cli.demo import parse_shapes
from mxnet_trt_property.engines import registry
from mxnet_trt_property.engines.layers import LayerTimes, NodeNames, ProfiledProgram, median_ms
from mxnet_trt_property.environment import environment
from mxnet_trt_property.errors import TensorRTPropertyError, brief, message, mxnet_words, next_step_of

NAME = "profile"

_ROWS = 20  # of layers in the table, unless all are asked for
_WIDTH = 60


class ProfileError(TensorRTPropertyError):
    """The network cannot be loaded or bound, or its engine cannot be profiled."""


@dataclass(frozen=True)
class LayerRow:
    """One layer of an engine.

    Attributes:
        layer: The engine's name of it.
        kind: The engine's name of what it does; may be empty.
        nodes: The MXNet nodes that the engine tells are in it; a fused layer may tell the last one only, or none.
        milliseconds: Its time.
    """

    layer: str
    kind: str
    nodes: tuple[str, ...]
    milliseconds: float


@dataclass(frozen=True)
class NodeRow:
    """One TensorRT node: its engine's run, copies and layers, in milliseconds."""

    name: str
    engine: str
    operators: int
    run_ms: float
    copy_in_ms: float
    copy_out_ms: float
    layers_ms: float
    layers: tuple[LayerRow, ...]


@dataclass(frozen=True)
class Profile:
    """Where the time of one forward goes, in milliseconds.

    Attributes:
        network: The checkpoint.
        runs: Over how many runs each median is.
        forward_ms: forward() and the wait for its results.
        mxnet_ms: What of it is not in the TensorRT nodes; 0 where the nodes took longer by themselves.
        operators_left: How many operators stay with MXNet.
        nodes: The TensorRT nodes.
    """

    network: str
    runs: int
    forward_ms: float
    mxnet_ms: float
    operators_left: int
    nodes: tuple[NodeRow, ...]


class _Profiled:
    """An engine whose programs can be asked for their layers' times."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def build(self, model: bytes, options: registry.Options, *rest: Any, **named: Any) -> Any:
        return self._engine.build(model, dataclasses.replace(options, layer_times=True), *rest, **named)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("prefix", help="a checkpoint PREFIX-symbol.json, PREFIX-EPOCH.params")
    parser.add_argument("--epoch", type=int, default=0, help="the checkpoint's epoch (0)")
    parser.add_argument(
        "--shape", action="append", metavar="NAME=N,C,H,W", help="an input and its shape (data=1,3,224,224)"
    )
    parser.add_argument("--engine", help="the engine, as in MXNET_TENSORRT_ENGINE, which counts without this")
    parser.add_argument("--precision", help="the precision, as in MXNET_TENSORRT_PRECISION, which counts without this")
    parser.add_argument("--runs", type=int, default=50, help="runs to take the medians over (50)")
    parser.add_argument("--all", action="store_true", help=f"list all layers, not only the slowest {_ROWS} of a node")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record as JSON")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write the timeline of one forward")


def run(arguments: argparse.Namespace) -> int:
    """Prints the profile; returns 0."""
    if arguments.runs < 1:
        raise ProfileError(message("--runs is too small", found=str(arguments.runs), required="1 or more"))
    shapes = parse_shapes(arguments.shape or ["data=1,3,224,224"])
    chosen = {"ENGINE": arguments.engine, "PRECISION": arguments.precision}
    record = profile(
        arguments.prefix, arguments.epoch, shapes, arguments.runs, {k: v for k, v in chosen.items() if v is not None}
    )
    if arguments.json is not None:
        _write(arguments.json, json.dumps(asdict(record), indent=1) + "\n")
    if arguments.trace is not None:
        _write(arguments.trace, json.dumps(profile_trace.trace(record)) + "\n")
    print(text(record, arguments.all))
    return 0


def _write(file: Path, words: str) -> None:
    try:
        file.write_text(words, encoding="utf-8")
    except OSError as error:
        raise ProfileError(message(f"{file} cannot be written", found=str(error))) from error


def profile(
    prefix: str, epoch: int, shapes: Mapping[str, tuple[int, ...]], runs: int, chosen: Mapping[str, str]
) -> Profile:
    """Returns the profile of a checkpoint.

    Args:
        prefix: The checkpoint's prefix.
        epoch: Its number.
        shapes: The shapes of its inputs, by name.
        runs: How many runs the medians are over.
        chosen: Settings for this profile, by name without the prefix.

    Raises:
        CheckpointError: The checkpoint cannot be read, or the shapes do not fit it.
        ProfileError: It cannot be bound, TensorRT takes no node of it, or its engine cannot be profiled.
        SettingError: A setting is not valid.
    """
    for name, words in chosen.items():
        settings.value(name, words)
    precision = str(settings.value("PRECISION", chosen.get("PRECISION")))
    variables = {settings.PREFIX + name: words for name, words in chosen.items()}
    if "CACHE" in {variable.name for variable in settings.VARIABLES}:
        variables[settings.PREFIX + "CACHE"] = "0"  # an engine from the disk was not built to tell of its layers
    symbol, arg_params, aux_params = checkpoint.load(prefix, epoch, shapes)
    case = bench_variants.Case(symbol, arg_params, aux_params, shapes, precision, "cpu")
    with registry.changed(_Profiled), bench_variants.backend(settings.BACKEND, precision), environment(variables):
        return _measure(prefix, _bound(case), bench_variants.random_inputs(shapes, 5), runs)


def _measure(prefix: str, executor: Any, values: bench_variants.Arrays, runs: int) -> Profile:
    import mxnet as mx

    for name, value in values.items():
        executor.arg_dict[name][:] = value

    def forward() -> None:
        for output in executor.forward(is_train=False):
            output.wait_to_read()

    try:
        forward_ms = median_ms(forward, runs)
    except mx.MXNetError as error:
        words = mxnet_words(error)
        raise ProfileError(
            message(f"{prefix} cannot be run", found=brief(words), next_step=next_step_of(words))
        ) from error
    nodes = tuple(_node(member, runs) for member in executor.tensorrt.sessions)
    rest = forward_ms - sum(node.run_ms for node in nodes)
    left = len(executor.tensorrt.made.decisions.refused)
    return Profile(prefix, runs, forward_ms, max(0.0, rest), left, nodes)


def _bound(case: bench_variants.Case) -> Any:
    """Returns an executor with TensorRT nodes and the checkpoint's parameters."""
    import mxnet as mx

    try:
        executor = case.symbol.simple_bind(mx.cpu(), grad_req="null", **case.shapes)
    except (mx.MXNetError, RuntimeError) as error:
        words = mxnet_words(error)
        what = "The network cannot be bound"
        raise ProfileError(message(what, found=brief(words), next_step=next_step_of(words))) from error
    executor.copy_params_from(case.arg_params, case.aux_params, allow_extra_params=True)
    if getattr(executor, "tensorrt", None) is None:
        raise ProfileError(message("No node of the network was taken", next_step="mxnet-trt explain PREFIX tells why"))
    return executor


def _node(member: Any, runs: int) -> NodeRow:
    """Returns the row of one session that has run."""
    report, program = member.report, member.program
    if not isinstance(program, ProfiledProgram):
        raise ProfileError(
            message(
                f"Engine {report.engine} cannot be profiled",
                found="no method layer_times of its programs",
                next_step="--engine with another one",
            )
        )
    times: LayerTimes = program.layer_times(member.device, runs)
    names = NodeNames(_owners(member.graph.model))
    rows = tuple(LayerRow(layer.name, layer.kind, names.find(layer), layer.milliseconds) for layer in times.layers)
    return NodeRow(
        report.label,
        report.engine,
        report.nodes,
        times.run_ms,
        times.copy_in_ms,
        times.copy_out_ms,
        times.layers_ms,
        rows,
    )


def _owners(model: Any) -> dict[str, str]:
    """Returns the MXNet node of each ONNX node, by the names of the ONNX node and of its outputs."""
    import onnx

    owners = dict(model.node_names)
    for node in onnx.load_from_string(model.without_values()).graph.node:
        if node.name in model.node_names:
            owners.update(dict.fromkeys(node.output, model.node_names[node.name]))
    return owners


def text(record: Profile, all_layers: bool = False) -> str:
    """Returns the record as the text that the command prints."""
    lines = [
        f"{Path(record.network).name}, medians of {record.runs} runs, milliseconds",
        f"{'forward':<{_WIDTH}}{record.forward_ms:9.3f}",
    ]
    left = f", {record.operators_left} operator(s) among it" if record.operators_left else ""
    lines.append(f"{'  MXNet (what is not in the nodes below' + left + ')':<{_WIDTH}}{record.mxnet_ms:9.3f}")
    for node in record.nodes:
        lines.append(f"{f'  {node.name} ({node.operators} operators, {node.engine})':<{_WIDTH}}{node.run_ms:9.3f}")
    for node in record.nodes:
        lines += ["", *_layers(node, all_layers)]
    return "\n".join(lines)


def _layers(node: NodeRow, all_layers: bool) -> list[str]:
    lines = [f"{node.name}:", f"{'  copies in':<{_WIDTH}}{node.copy_in_ms:9.3f}"]
    lines += [f"{'  copies out':<{_WIDTH}}{node.copy_out_ms:9.3f}"]
    if not node.layers:
        return [*lines, f"  {node.engine} tells of no layers"]
    lines.append(f"{f'  {len(node.layers)} layers, one by one':<{_WIDTH}}{node.layers_ms:9.3f}")
    rows: Sequence[LayerRow] = sorted(node.layers, key=lambda row: -row.milliseconds)
    shown = rows if all_layers else rows[:_ROWS]
    for row in shown:
        share = row.milliseconds / node.layers_ms if node.layers_ms else 0.0
        lines.append(f"    {_name(row):<{_WIDTH - 4}}{row.milliseconds:9.3f}  {share:4.0%}  {row.kind}".rstrip())
    rest = rows[len(shown) :]
    if rest:
        words = f"{len(rest)} more (--all lists them)"
        lines.append(f"    {words:<{_WIDTH - 4}}{sum(row.milliseconds for row in rest):9.3f}")
    return lines


def _name(row: LayerRow) -> str:
    name = " + ".join(row.nodes) or row.layer
    return name if len(name) < _WIDTH - 4 else name[: _WIDTH - 8] + "..."
