"""Measures a network in stock MXNet, through this package and in the bare engine, in one process and interleaved.

Each row is a network at one batch size and precision; times are milliseconds of one inference:

  mxnet      stock MXNet on the same context, default backend, MXNET_SUBGRAPH_BACKEND unset: forward(data=x), wait
  blog loop  the plugin, simple_bind: forward(data=x), wait
  forward    the same executor with the data in place: forward(), wait
  compile    the bound call of mxnet_trt_property.compile
  limit      the bare engine: TensorRT's captured run with its copies, or ONNX Runtime by io-binding, on the same model
  floor      stock MXNet with a network that does nothing, on inputs of the same size: forward(data=x), wait

A time is the median over the rounds of the median of a round; the spread is (largest - smallest) / median over the
rounds. Inputs are random real numbers. Every result is compared with MXNET_SUBGRAPH_BACKEND=NONE on the CPU, before and
after the timing, on two sets of inputs; for a wrong result no time is printed. The exit status is 1 then, and where the
plugin could not run a network.

Without PREFIX and --models it measures resnet18_v2, resnet50_v2 and mobilenetv2_1.0 of Gluon's zoo.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np

from mxnet_trt_property import settings
from mxnet_trt_property.cli import bench_machine, bench_plot, bench_variants, checkpoint, demo
from mxnet_trt_property.cli.bench_variants import NAMES, BenchError, Case, Prepared, Variant
from mxnet_trt_property.engines import registry
from mxnet_trt_property.errors import message

NAME = "bench"
HEADLINE = "resnet18_v2,resnet50_v2,mobilenetv2_1.0"
MIN_ROUNDS = 5

# ||a - b|| / ||b|| of precisions other than fp32, whatever the engine; engines.registry.tolerance has those of fp32.
TOLERANCE = {"fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1}
_MXNET_TOLERANCE = 1e-4  # operators that MKLDNN fuses against separate ones

# A bench that could not measure these has failed; a network that is no single engine has no `compile`.
_OURS = {"blog loop", "forward"}

# Seconds. OpenMP's threads, those of stock MXNet, spin for 0.2 after their work, on cores that the next variant needs;
# so do those of ONNX Runtime for a while. Where neither is there, no pause: threads that slept wake up slowly, which a
# program that is in use does not see.
_QUIET = 0.25


@dataclass
class Row:
    """What was measured of one network at one batch size and precision.

    Attributes:
        model: The network.
        batch: The batch size.
        precision: What the engine was asked to compute in.
        context: "cpu" or "gpu", where MXNet's arrays lie.
        engine: The engine that ran it, or engines if the variants differ.
        taken: How many operators run inside TensorRT nodes, of `operators`.
        operators: How many operators the network has.
        subgraphs: How many TensorRT nodes there are.
        milliseconds: By variant, the median over the rounds.
        spread: By variant, (largest - smallest) / median over the rounds.
        rounds: By variant, each round's median in milliseconds.
        relative_error: By variant, the largest ||a - b|| / ||b|| over outputs and inputs.
        argmax_agreement: By variant, the share of rows whose largest element is the same.
        unavailable: By variant, why it was not measured.
        ratios: forward / limit, compile / limit, and mxnet / blog loop ("speed-up").
        wrong: What is wrong with the results; then there are no times.
    """

    model: str
    batch: int
    precision: str
    context: str
    engine: str = ""
    taken: int = 0
    operators: int = 0
    subgraphs: int = 0
    milliseconds: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)
    relative_error: dict[str, float] = field(default_factory=dict)
    argmax_agreement: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    wrong: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("prefix", nargs="?", help="a checkpoint PREFIX-symbol.json, PREFIX-EPOCH.params")
    parser.add_argument("--epoch", type=int, default=0, help="the checkpoint's epoch (0)")
    parser.add_argument("--models", help=f"networks of Gluon's zoo in place of a checkpoint ({HEADLINE})")
    parser.add_argument("--shape", action="append", metavar="NAME=N,C,H,W",
                        help="an input and its shape; N is replaced by each batch size (data=1,3,224,224)")  # fmt: skip
    parser.add_argument("--batch", default="1,8,32", help="batch sizes (1,8,32)")
    parser.add_argument("--precision", default="fp32", help="precisions (fp32)")
    parser.add_argument("--context", choices=("cpu", "gpu"), default="cpu", help="where MXNet's arrays lie (cpu)")
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help=f"rounds, at least {MIN_ROUNDS} ({MIN_ROUNDS})")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a variant is timed in a round (0.5)")
    parser.add_argument("--skip", default="", help="variants to leave out: " + ", ".join(NAMES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results, each round's too, as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw a bar chart; needs matplotlib")


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints the table; returns the exit status."""
    shapes = demo.parse_shapes(arguments.shape or ["data=1,3,224,224"])
    batches = _numbers(arguments.batch)
    precisions = [str(settings.value("PRECISION", text)) for text in arguments.precision.split(",")]
    skipped = {text.strip() for text in arguments.skip.split(",") if text.strip()}
    unknown = ", ".join(sorted(skipped - set(NAMES)))
    if unknown:
        required = "names out of " + ", ".join(NAMES)
        raise BenchError(message("--skip names a variant that there is not", found=unknown, required=required))
    if arguments.rounds < MIN_ROUNDS:
        required = f"{MIN_ROUNDS} or more"
        raise BenchError(message("--rounds is too small", found=str(arguments.rounds), required=required))
    if arguments.prefix and arguments.models:
        raise BenchError(message("bench was given both a PREFIX and --models", required="one of them"))
    if arguments.plot is not None:
        bench_plot.check()
    wanted = tuple(name for name in NAMES if name not in skipped)
    machine = bench_machine.describe()
    record: dict[str, Any] = {
        "machine": machine, "context": arguments.context, "rounds": arguments.rounds, "seconds": arguments.seconds,
        "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }  # fmt: skip
    rows: list[Row] = []
    for name, symbol, arg_params, aux_params in _networks(arguments, shapes):
        for precision in precisions:
            for batch in batches:
                sized = {k: (batch, *s[1:]) for k, s in shapes.items()}
                _progress(f"measuring {name}, batch {batch}, {precision} ...")
                row = Row(name, batch, precision, arguments.context)
                case = Case(symbol, arg_params, aux_params, sized, precision, arguments.context)
                measure(case, row, wanted, arguments)
                rows.append(row)
                if arguments.json is not None:  # after each row, so that a run that is cut off leaves something
                    text = json.dumps({**record, "rows": [asdict(r) for r in rows]}, indent=1)
                    arguments.json.write_text(text + "\n")
    print(bench_machine.summary(machine))
    print(table(rows))
    if arguments.plot is not None and any(row.milliseconds for row in rows):
        bench_plot.draw(rows, bench_machine.summary(machine), arguments.plot)
    return 1 if any(row.wrong or not row.milliseconds or _OURS & set(row.unavailable) for row in rows) else 0


def _numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise BenchError(message("--batch has a value that is not valid", found=text, required="such as 1,8,32"))
    return found


def _networks(
    arguments: argparse.Namespace, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yields each network's name with its symbol, arg_params and aux_params."""
    import mxnet as mx

    if arguments.prefix:
        yield (arguments.prefix, *checkpoint.load(arguments.prefix, arguments.epoch, shapes))
        return
    with tempfile.TemporaryDirectory(prefix="mxnet-trt-bench-") as folder:
        for name in (arguments.models or HEADLINE).split(","):
            prefix = str(Path(folder) / name)
            _progress(f"exporting {name} ...")
            with bench_variants.backend(None):
                demo.export_gluon(name, prefix, (1, *next(iter(shapes.values()))[1:]))
            yield (name, *mx.model.load_checkpoint(prefix, 0))


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(case: Case, row: Row, wanted: tuple[str, ...], arguments: argparse.Namespace) -> None:
    """Fills in a row."""
    inputs = [bench_variants.random_inputs(case.shapes, seed) for seed in (11, 12)]
    expected = bench_variants.reference(case, inputs)
    with bench_variants.prepare(case, wanted) as made:
        row.taken, row.operators, row.subgraphs = made.taken, made.operators, made.subgraphs
        row.unavailable = dict(made.unavailable)
        row.engine = ", ".join(dict.fromkeys(made.engines.values()))
        if made.unavailable:
            _progress(f"{row.model}, batch {row.batch}: no {', '.join(made.unavailable)}, for the reason below")
        if not compare(row, made, inputs[0], expected[0]):
            return
        on_cpu = {name for name in NAMES if "onnxruntime" in made.engines.get(name, "")}
        rounds = interleave(made.variants, arguments.rounds, arguments.seconds, {"mxnet", *on_cpu})
        if not compare(row, made, inputs[1], expected[1]):
            return
    summarize(row, rounds)


def summarize(row: Row, rounds: dict[str, list[float]]) -> None:
    """Puts medians, spreads and ratios into a row."""
    row.rounds = rounds
    row.milliseconds = {name: float(np.median(times)) for name, times in rounds.items()}
    row.spread = {name: (max(times) - min(times)) / row.milliseconds[name] for name, times in rounds.items()}
    times = row.milliseconds
    pairs = (
        ("blog loop / limit", "blog loop", "limit"),
        ("forward / limit", "forward", "limit"),
        ("compile / limit", "compile", "limit"),
        ("speed-up", "mxnet", "blog loop"),
    )
    row.ratios = {name: times[over] / times[under] for name, over, under in pairs if over in times and under in times}


def interleave(
    variants: Sequence[Variant], rounds: int, seconds: float, spinning: Collection[str] = ()
) -> dict[str, list[float]]:
    """Returns each round's median in milliseconds, by variant.

    Every round times every variant for about `seconds`, beginning with another one each time, so that a machine that
    gets slower or faster meanwhile does so for all. Each runs for half as long untimed, which brings caches and threads
    back. Behind those named in `spinning` there is a pause, for their threads to come to rest.
    """
    found: dict[str, list[float]] = {variant.name: [] for variant in variants}
    repetitions = {variant.name: max(3, math.ceil(seconds / max(_once(variant), 1e-6))) for variant in variants}
    spun = True
    for number in range(rounds):
        first = number % max(1, len(variants))
        for variant in (*variants[first:], *variants[:first]):
            if spun:
                time.sleep(_QUIET)
            spun = variant.name in spinning
            for _ in range(math.ceil(repetitions[variant.name] / 2)):
                variant.call()
            times = [_time(variant) for _ in range(repetitions[variant.name])]
            found[variant.name].append(float(np.median(times)) * 1e3)
    return found


def _once(variant: Variant) -> float:
    """Returns the seconds of one call after a few to warm up, which capture what an engine wants to capture."""
    return min(_time(variant) for _ in range(4))


def _time(variant: Variant) -> float:
    call = variant.call
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(
    row: Row,
    made: Prepared,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    expected: Sequence[np.ndarray[Any, Any]],
) -> bool:
    """Runs every variant on `inputs`, puts its error, and what is wrong, into the row; returns whether all is right."""
    for variant in made.variants:
        variant.feed(inputs)
        variant.call()
        if variant.outputs is None:
            continue
        name, found = variant.name, variant.outputs()
        allowed = tolerance(row.precision, made.engines.get(name))
        error = max((demo.relative_error(f, e) for f, e in zip(found, expected)), default=0.0)
        agreement, margin = argmax_agreement(found, expected)
        row.relative_error[name] = max(error, row.relative_error.get(name, 0.0))
        row.argmax_agreement[name] = min(agreement, row.argmax_agreement.get(name, 1.0))
        if not row.wrong and (error > allowed or len(found) != len(expected)):
            row.wrong = f"{name} is off by a relative error of {error:.1e}; {allowed:.0e} is allowed"
        elif not row.wrong and margin > 2 * allowed:
            row.wrong = f"{name} has another argmax in {1 - agreement:.1%} of the rows, and not by a near tie"
    return not row.wrong


def tolerance(precision: str, engine: Optional[str]) -> float:
    """Returns the largest relative error that counts as a right result; `engine` is None for stock MXNet."""
    if engine is None:
        return _MXNET_TOLERANCE
    if precision != "fp32":
        return TOLERANCE.get(precision, 1e-1)
    return max(map(registry.tolerance, engine.split("+")))


def argmax_agreement(
    found: Sequence[np.ndarray[Any, Any]], expected: Sequence[np.ndarray[Any, Any]]
) -> tuple[float, float]:
    """Returns the share of rows with the same argmax, and for the others by how much it is missed.

    The second number is the largest (max(expected) - expected[argmax(found)]) / max |expected| of a row: two elements
    that are equal within the tolerance may change places in a right result.
    """
    same = rows = 0
    margin = 0.0
    for ours, theirs in zip(found, expected):
        if ours.shape != theirs.shape or theirs.ndim == 0 or not theirs.size:
            continue
        a, b = (x.reshape(-1, x.shape[-1]) for x in (ours, theirs))
        chosen = np.take_along_axis(b, a.argmax(-1)[:, None], axis=-1)[:, 0]
        missed = (b.max(-1) - chosen) / np.maximum(np.abs(b).max(-1), 1e-30)
        same += int((a.argmax(-1) == b.argmax(-1)).sum())
        rows += len(a)
        margin = max(margin, float(missed.max()))
    return (same / rows if rows else 1.0), margin


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as an aligned table."""
    ratios = ("forward / limit", "compile / limit", "speed-up")
    head = ["model", "batch", "precision", "engine", *NAMES, *ratios, "error", "argmax", "spread"]
    lines = [head]
    notes = []
    for row in rows:
        start = [Path(row.model).name, str(row.batch), row.precision, row.engine or "none"]
        if row.wrong:
            notes.append(f"{' '.join(start)}: WRONG RESULT: {row.wrong}")
            lines.append([*start, *["WRONG"] * len(NAMES), *["-"] * len(ratios), "", "", ""])
        else:
            ours = [n for n in row.relative_error if n != "mxnet"]
            lines.append(
                [
                    *start,
                    *(f"{row.milliseconds[n]:.3f}" if n in row.milliseconds else "-" for n in NAMES),
                    *(f"{row.ratios[n]:.2f}" if n in row.ratios else "-" for n in ratios),
                    f"{max(row.relative_error[n] for n in ours):.1e}" if ours else "-",
                    f"{min(row.argmax_agreement[n] for n in ours):.0%}" if ours else "-",
                    f"{max(row.spread.values(), default=0.0):.0%}",
                ]
            )
        for reason in dict.fromkeys(row.unavailable.values()):
            names = ", ".join(name for name, other in row.unavailable.items() if other == reason)
            notes.append(f"{' '.join(start)}: no {names}: {reason}")
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["  ".join(f"{c:<{w}}" if i in (0, 2, 3) else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths)))
            for line in lines]  # fmt: skip
    return "\n".join([*(line.rstrip() for line in text), *notes])
