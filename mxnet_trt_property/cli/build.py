"""Builds the engines of a checkpoint into the cache, so that a program finds them there. Needs no GPU.

With TensorRT-RTX the engines serve other machines' GPUs: all from Ampere on, or with --gpu only the kinds that are
named. The cache folder goes to such a machine, and the program runs there with the same package, TensorRT-RTX,
variables and input shapes. What the GPU itself compiles (its kernels) is kept at the first run there. TensorRT builds
only on the GPU that the engine is for, so --engine tensorrt runs the checkpoint once, there; --engine onnxruntime does
the same for the CPU of this machine.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mxnet_trt_property import programs, settings
from mxnet_trt_property.cache import build as cache
from mxnet_trt_property.cache.folder import Folder
from mxnet_trt_property.cli.checkpoint import load
from mxnet_trt_property.cli.demo import parse_shapes
from mxnet_trt_property.engines import registry
from mxnet_trt_property.engines.registry import Device
from mxnet_trt_property.environment import environment
from mxnet_trt_property.errors import TensorRTPropertyError, message, mxnet_words

NAME = "build"
_AHEAD = "tensorrt_rtx"


class BuildError(TensorRTPropertyError):
    """Engines cannot be built ahead of time from what was given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("prefix", help="a checkpoint's PREFIX: PREFIX-symbol.json and PREFIX-0000.params")
    parser.add_argument("--epoch", type=int, default=0, help="the N of PREFIX-N.params")
    parser.add_argument("--shape", action="append", metavar="NAME=N,C,H,W", default=[], help="an input and its shape")
    parser.add_argument("--precision", help="MXNET_TENSORRT_PRECISION by default")
    parser.add_argument("--gpu", default="", help="such as sm_86,sm_89; all GPUs from Ampere on by default")
    parser.add_argument("--engine", default=_AHEAD, help=f"{_AHEAD} by default")
    parser.add_argument("--cache-dir", metavar="FOLDER", help="MXNET_TENSORRT_CACHE_DIR by default")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Builds and prints the record; returns 0."""
    given = {"PRECISION": arguments.precision, "CACHE_DIR": arguments.cache_dir, "ENGINE": arguments.engine}
    variables = {settings.PREFIX + name: text for name, text in given.items() if text is not None}
    with environment({**variables, settings.PREFIX + "ON_ERROR": "raise", settings.PREFIX + "CACHE": "1"}):
        record = build(arguments.prefix, arguments.epoch, parse_shapes(arguments.shape), parse_gpus(arguments.gpu))
    print(json.dumps(record) if arguments.json else text(record))
    return 0


def parse_gpus(words: str) -> tuple[str, ...]:
    """Returns compute capabilities from a text such as 'sm_86,sm_89': "8.6", "8.9".

    Raises:
        BuildError: The text is not of that form.
    """
    found = []
    for word in filter(None, (part.strip().lower() for part in words.split(","))):
        match = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", word)
        if match is None:
            raise BuildError(message("--gpu has a value that is not valid", found=word, required="sm_86,sm_89 or such"))
        found.append(f"{match.group(1)}.{match.group(2)}")
    return tuple(dict.fromkeys(found))


def build(prefix: str, epoch: int, shapes: Mapping[str, tuple[int, ...]], gpus: Sequence[str] = ()) -> dict[str, Any]:
    """Binds a checkpoint and runs it once for each kind of GPU; the settings are those of the variables.

    Args:
        prefix: The checkpoint's prefix.
        epoch: Its number.
        shapes: The shapes of the inputs, by name.
        gpus: Compute capabilities; empty for an engine that serves all from Ampere on.

    Returns:
        What the command prints with --json.

    Raises:
        BuildError: The engine cannot build here, a build failed, or no node of the network is taken.
        CheckpointError: The checkpoint cannot be read, or the shapes do not fit it.
        FolderError: The cache folder cannot be used.
    """
    import mxnet as mx

    config = settings.read()
    if gpus and config.engine != _AHEAD:
        raise BuildError(
            message(
                f"--gpu has no meaning for engine {config.engine}",
                found=", ".join(gpus),
                required=f"--engine {_AHEAD}: the others build for the machine that they run on",
            )
        )
    folder = Folder(cache.path_of(config), config.cache_mb << 20)
    symbol, arguments, auxiliary = load(prefix, epoch, shapes)
    before = {row.name for row in folder.rows()}
    subgraphs: list[dict[str, Any]] = []
    for gpu in gpus or ("",):
        with _engine(config, gpu) as name, environment({settings.BACKEND_VARIABLE: settings.BACKEND}):
            programs.clear()  # what this process has built for another GPU
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
            executor.copy_params_from(arguments, auxiliary, allow_extra_params=True)
            try:
                for output in executor.forward(is_train=False):
                    output.wait_to_read()
            except mx.MXNetError as error:
                found = mxnet_words(error)
                step = "without --gpu the engine serves all GPUs from Ampere on" if gpu else ""
                raise BuildError(message(f"{prefix} cannot be built", found=found, next_step=step)) from error
            state = getattr(executor, "tensorrt", None)
            for report in [member.report for member in state.sessions] if state is not None else ():
                row = {"node": report.label, "engine": report.engine, "nodes": report.nodes, "gpu": name}
                subgraphs.append({**row, "size_bytes": report.engine_bytes, "was_there": report.loads > 0})
    if not subgraphs:
        raise BuildError(message(f"No node of {prefix} is taken", next_step=f"mxnet-trt explain {prefix} tells why"))
    written = sorted({row.name for row in folder.rows()} - before)
    missing = [row["node"] for row in subgraphs if not row["was_there"]]
    if missing and not written:
        raise BuildError(
            message(
                f"The engines of {prefix} were built but are not in the cache",
                found=str(folder.path),
                next_step="see the log above; mxnet-trt cache ls shows the folder",
            )
        )
    return {
        "network": prefix,
        "folder": str(folder.path),
        "engine": config.engine,
        "version": registry.get(config.engine).version(),
        "precision": config.precision,
        "subgraphs": subgraphs,
        "written": written,
    }


@contextmanager
def _engine(config: settings.Settings, gpu: str) -> Iterator[str]:
    """Makes TensorRT-RTX build for another machine; gives what the record calls the machine that is built for."""
    if config.engine != _AHEAD:
        reason = registry.get(config.engine).unusable(Device("cpu", 0, config.device))
        if reason is not None:
            step = f"--engine {_AHEAD} builds for other machines; {config.engine} builds where it runs"
            raise BuildError(message(f"{config.engine} cannot build here", found=reason, next_step=step))
        yield "this machine"
        return
    from mxnet_trt_property.engines.trt_ahead import AheadEngine

    engine = AheadEngine(compute_capability=gpu)
    reason = engine.unusable(Device("cpu", 0))
    if reason is not None:
        raise BuildError(reason)
    with registry.replaced(_AHEAD, engine):
        yield engine.cache_variants(Device("cpu", 0))[0]


def text(record: Mapping[str, Any]) -> str:
    """Returns the record as the text that the command prints."""
    lines = []
    for row in record["subgraphs"]:
        done = "was there" if row["was_there"] else "built"
        size = f"{row['size_bytes'] / 1e6:.1f} MB"
        lines.append(f"{row['node']}: {row['nodes']} nodes, {size}, for {row['gpu']}: {done}")
    lines.append(f"{record['engine']} {record['version']}, {record['precision']}, in {record['folder']}")
    if record["engine"] == _AHEAD:
        lines.append("copy the folder to the machine with the GPU, or name it there in MXNET_TENSORRT_CACHE_DIR")
    return "\n".join(lines)
