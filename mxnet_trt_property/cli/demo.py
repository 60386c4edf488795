"""Runs one plain MXNet program twice, without and with TensorRT, and compares time and results.

The program (mxnet_trt_property/cli/plain_script.py) loads a checkpoint, binds it with simple_bind and runs it in a
loop. It does not mention this package: the second run differs from the first only in the variable
MXNET_SUBGRAPH_BACKEND=TensorRT. Without a PREFIX, Gluon's resnet18_v2 is exported first, with initialised weights and
batch-norm statistics from a few training-mode passes. The exit status is 1 if the results differ by more than the
precision allows or no node was taken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mxnet_trt_property import settings
from mxnet_trt_property.cli import checkpoint
from mxnet_trt_property.engines import registry
from mxnet_trt_property.errors import TensorRTPropertyError, message

NAME = "demo"

_FIXED_SIZE = ("alexnet", "densenet", "inception", "squeezenet", "vgg")
_SCRIPT = Path(__file__).with_name("plain_script.py")


class DemoError(TensorRTPropertyError):
    """The demo could not run its program."""


@dataclass(frozen=True)
class Comparison:
    """What the two runs gave.

    Attributes:
        model: What was run.
        mxnet_ms: Median milliseconds of a forward, stock MXNet.
        tensorrt_ms: The same with TensorRT on.
        engines: The engines used.
        taken: How many operators run inside TensorRT nodes, of `operators`.
        operators: How many operators the network has.
        subgraphs: How many TensorRT nodes there are.
        relative_error: The largest ||a - b|| / ||b|| over the outputs.
        tolerance: The largest error that counts as equal.
        same_argmax: Whether every row's largest element is the same.
    """

    model: str
    mxnet_ms: float
    tensorrt_ms: float
    engines: tuple[str, ...]
    taken: int
    operators: int
    subgraphs: int
    relative_error: float
    tolerance: float
    same_argmax: bool

    @property
    def passed(self) -> bool:
        """Whether TensorRT took nodes and the results agree."""
        return self.taken > 0 and self.relative_error <= self.tolerance and self.same_argmax


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("prefix", nargs="?", help="a checkpoint PREFIX-symbol.json, PREFIX-EPOCH.params")
    parser.add_argument("--epoch", type=int, default=0, help="the checkpoint's epoch (0)")
    parser.add_argument(
        "--shape", action="append", metavar="NAME=N,C,H,W", help="an input and its shape (data=1,3,224,224)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each run is timed (3)")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo and prints its table; returns the exit status."""
    shapes = parse_shapes(arguments.shape or ["data=1,3,224,224"])
    with tempfile.TemporaryDirectory(prefix="mxnet-trt-demo-") as folder:
        prefix, epoch, model = arguments.prefix, arguments.epoch, arguments.prefix
        if prefix is not None:
            checkpoint.load(prefix, epoch, shapes)  # what is wrong with it is told in a line, not by MXNet's traceback
            prefix = checkpoint.prefix_of(prefix)
        else:
            prefix, epoch, model = str(Path(folder) / "resnet18_v2"), 0, "resnet18_v2"
            _progress(arguments, "exporting resnet18_v2 ...")
            export_gluon("resnet18_v2", prefix)
        record = compare(str(prefix), epoch, str(model), shapes, arguments.seconds, Path(folder), arguments)
    print(json.dumps({**asdict(record), "passed": record.passed}) if arguments.json else table(record))
    return 0 if record.passed else 1


def parse_shapes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    """Returns shapes by input name from texts such as 'data=1,3,224,224'.

    Raises:
        DemoError: A text is not of that form.
    """
    shapes = {}
    for text in texts:
        name, _, numbers = text.partition("=")
        try:
            shape = tuple(int(n) for n in numbers.split(","))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            raise DemoError(message("--shape has a value that is not valid", found=text, required="NAME=1,3,224,224"))
        shapes[name] = shape
    return shapes


def export_gluon(name: str, prefix: str, shape: tuple[int, ...] = (1, 3, 224, 224)) -> None:
    """Writes a network of gluon.model_zoo.vision as a checkpoint, with real batch-norm statistics.

    Freshly initialised statistics (mean 0, variance 1) would let activations grow from layer to layer and make the
    comparison of two precisions meaningless. MXNet writes the running statistics in the backward pass, a tenth of the
    way to the batch's own each time.

    Args:
        name: The network's name in the zoo.
        prefix: The checkpoint to write, PREFIX-symbol.json and PREFIX-0000.params.
        shape: The shape of the input, (N, C, H, W).

    Raises:
        DemoError: The zoo has no network of that name.
    """
    import mxnet as mx
    from mxnet.gluon.model_zoo import vision

    mx.random.seed(7)
    try:
        net = vision.get_model(name)
    except ValueError as error:
        raise DemoError(message(f"Gluon's zoo has no network '{name}'", found=str(error).strip())) from None
    net.initialize(mx.init.Xavier())
    # Small images make the same kind of statistics; these networks end in a window of fixed size and take no others.
    small = shape[2:] if name.startswith(_FIXED_SIZE) else (64, 64)
    for _ in range(20):
        with mx.autograd.record():
            loss = net(mx.nd.random.normal(shape=(4, shape[1], *small))).mean()
        loss.backward()
    net.hybridize()
    net(mx.nd.random.normal(shape=shape)).wait_to_read()
    net.export(prefix)


def compare(
    prefix: str,
    epoch: int,
    model: str,
    shapes: Mapping[str, tuple[int, ...]],
    seconds: float,
    folder: Path,
    arguments: argparse.Namespace,
) -> Comparison:
    """Runs the program without and with TensorRT and compares.

    Raises:
        DemoError: One of the runs failed.
    """
    inputs = folder / "inputs.npz"
    random = np.random.default_rng(3)
    np.savez(inputs, **{k: random.standard_normal(s).astype("float32") for k, s in shapes.items()})
    plain = {k: v for k, v in os.environ.items() if k not in (settings.BACKEND_VARIABLE, settings.OLD_SWITCH)}
    report_file = folder / "report.json"
    with_tensorrt = {
        **plain,
        settings.BACKEND_VARIABLE: settings.BACKEND,
        settings.PREFIX + "REPORT": str(report_file),
    }
    _progress(arguments, "running the program with MXNET_SUBGRAPH_BACKEND unset ...")
    stock = _run_script(plain, prefix, epoch, inputs, folder / "stock.npz", seconds)
    _progress(arguments, "running the same program with MXNET_SUBGRAPH_BACKEND=TensorRT ...")
    ours = _run_script(with_tensorrt, prefix, epoch, inputs, folder / "ours.npz", seconds)
    report = json.loads(report_file.read_text()) if report_file.exists() else []
    engines = tuple(sorted({r["engine"] for r in report if r["engine"]}))
    names = [n for n in stock if n != "milliseconds"]
    return Comparison(
        model=model,
        mxnet_ms=float(stock["milliseconds"]),
        tensorrt_ms=float(ours["milliseconds"]),
        engines=engines,
        taken=sum(r["nodes"] for r in report),
        operators=_count_operators(prefix),
        subgraphs=len(report),
        relative_error=max(relative_error(ours[n], stock[n]) for n in names),
        tolerance=max(map(registry.tolerance, engines), default=registry.DEFAULT_TOLERANCE),
        same_argmax=all(np.array_equal(ours[n].argmax(-1), stock[n].argmax(-1)) for n in names),
    )


def table(record: Comparison) -> str:
    """Returns the record as the text that the command prints."""
    speed = record.mxnet_ms / record.tensorrt_ms
    rows = [
        ("model", record.model),
        ("MXNet", f"{record.mxnet_ms:.2f} ms per forward"),
        ("MXNet with TensorRT on", f"{record.tensorrt_ms:.2f} ms per forward ({speed:.2f} x)"),
        ("engine", ", ".join(record.engines) or "none"),
        ("nodes taken", f"{record.taken} of {record.operators}, in {record.subgraphs} subgraph(s)"),
        ("relative error", f"{record.relative_error:.1e} (tolerance {record.tolerance:.0e})"),
        ("same argmax", "yes" if record.same_argmax else "NO"),
        ("result", "passed" if record.passed else "FAILED"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _progress(arguments: argparse.Namespace, text: str) -> None:
    if not arguments.json:
        print(text, file=sys.stderr, flush=True)


def _run_script(
    environment: Mapping[str, str], prefix: str, epoch: int, inputs: Path, outputs: Path, seconds: float
) -> dict[str, np.ndarray[Any, Any]]:
    command = [sys.executable, str(_SCRIPT), prefix, str(epoch), str(inputs), str(outputs), str(seconds)]
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr.rstrip(), file=sys.stderr)
        what = "The plain program failed" + (" with TensorRT on" if settings.BACKEND_VARIABLE in environment else "")
        raise DemoError(message(what, found=f"exit status {done.returncode}", next_step="see its words above"))
    # Our warnings of the second run matter to whoever reads the table: an engine that failed, say.
    for line in done.stderr.splitlines():
        if "| next step:" in line:
            print(line, file=sys.stderr)
    with np.load(outputs) as found:
        return {name: found[name] for name in found.files}


def _count_operators(prefix: str) -> int:
    from mxnet_trt_property.graph import Graph

    return len(Graph.from_json(Path(f"{prefix}-symbol.json").read_text()).operators)


def relative_error(ours: np.ndarray[Any, Any], stock: np.ndarray[Any, Any]) -> float:
    """Returns ||a - b|| / ||b||; a shape that differs, or a value that is not a number, is an infinite error."""
    if ours.shape != stock.shape:
        return float("inf")
    error = float(np.linalg.norm((ours - stock).ravel()) / max(float(np.linalg.norm(stock.ravel())), 1e-30))
    return error if np.isfinite(error) else float("inf")
