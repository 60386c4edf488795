"""Makes the calibration table that precision int8 needs, by running a checkpoint on sample inputs.

--data is an .npy file (samples of the one input along its first axis), an .npz file (arrays by the inputs' names), a
folder of .npy files (one sample or more in each), or a .rec file of images (--mean, --std and --scale say how they
become numbers). The network runs in float32; the table has the range of each value that int8 would quantize. Use it
with MXNET_TENSORRT_PRECISION=int8 and MXNET_TENSORRT_CALIBRATION_TABLE=TABLE.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mxnet_trt_property import settings
from mxnet_trt_property.cli import checkpoint
from mxnet_trt_property.cli.demo import parse_shapes
from mxnet_trt_property.environment import environment
from mxnet_trt_property.errors import TensorRTPropertyError, message, mxnet_words
from mxnet_trt_property.precision import tables

_WITHOUT_END = "1000000000"


class CalibrateError(TensorRTPropertyError):
    """The checkpoint or the samples cannot be used, or there is nothing to quantize."""


class Calibrated(NamedTuple):
    """What was calibrated: the table's file, on how many batches, by which method, and how many ranges it has."""

    table: str
    method: str
    batches: int
    ranges: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("prefix", help="the checkpoint's PREFIX (PREFIX-symbol.json, PREFIX-0000.params)")
    parser.add_argument("--epoch", type=int, default=0, help="the N of PREFIX-N.params")
    parser.add_argument("--shape", action="append", metavar="NAME=N,C,H,W", default=[], help="an input and its shape")
    parser.add_argument("--data", type=Path, required=True, help="the samples: .npy, .npz, a folder of .npy, or .rec")
    parser.add_argument("--batches", type=int, default=0, help="how many batches at most; 0 for all (default)")
    help_text = "entropy: the range that loses least of a value's distribution (default); minmax: all that was met"
    parser.add_argument("--method", choices=tables.METHODS, default="entropy", help=help_text)
    parser.add_argument("--mean", type=_numbers, default=(), metavar="R,G,B", help="of .rec images, subtracted")
    parser.add_argument("--std", type=_numbers, default=(), metavar="R,G,B", help="of .rec images, divided by")
    parser.add_argument("--scale", type=float, default=1.0, help="of .rec images, multiplied last")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the table's file")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def run(arguments: argparse.Namespace) -> int:
    """Writes the table and prints what is in it; returns 0."""
    shapes = parse_shapes(arguments.shape)
    if not shapes:
        raise CalibrateError(message("calibrate needs the shape of each input", next_step="pass --shape data=N,C,H,W"))
    batches = read(arguments.data, shapes, _image_options(arguments))
    if arguments.batches:
        batches = itertools.islice(batches, arguments.batches)
    ranges, count = calibrate(arguments.prefix, arguments.epoch, shapes, batches, arguments.method)
    try:
        tables.save(arguments.output, ranges, arguments.method, count)
    except OSError as error:
        raise CalibrateError(message(f"The table {arguments.output} cannot be written", found=str(error))) from error
    record = Calibrated(str(arguments.output), arguments.method, count, len(ranges))
    if arguments.json:
        print(json.dumps(record._asdict()))
    else:
        print(f"{record.table}: {record.ranges} ranges from {record.batches} batches ({record.method})")
    return 0


def calibrate(
    prefix: str, epoch: int, shapes: Mapping[str, tuple[int, ...]], batches: Iterator[Mapping[str, Any]], method: str
) -> tuple[dict[str, tuple[float, float]], int]:
    """Returns the ranges of a checkpoint's values by the keys of a table, and the number of batches.

    Args:
        prefix: The checkpoint's prefix.
        epoch: Its number.
        shapes: The shapes of the inputs, by name.
        batches: Arrays by the inputs' names.
        method: One of `tables.METHODS`.

    Raises:
        CalibrateError: The checkpoint cannot be loaded or run, there are no batches, or nothing would be quantized.
        EngineError: A batch has values that are not finite.
    """
    import mxnet as mx

    variables = {"PRECISION": "int8", "CALIBRATION_ITERS": _WITHOUT_END, "CALIBRATION_METHOD": method}
    variables.update({"CALIBRATION_TABLE": "", "ON_ERROR": "raise"})
    symbol, arguments, auxiliary = checkpoint.load(prefix, epoch, shapes)
    try:
        with environment(
            {settings.BACKEND_VARIABLE: settings.BACKEND, **{settings.PREFIX + k: v for k, v in variables.items()}}
        ):
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
            executor.copy_params_from(arguments, auxiliary, allow_extra_params=True)
            count = 0
            for batch in batches:
                executor.forward(is_train=False, **{k: mx.nd.array(v) for k, v in batch.items()})[0].wait_to_read()
                count += 1
    except (OSError, mx.MXNetError) as error:
        what = f"{prefix} cannot be calibrated"
        raise CalibrateError(message(what, found=mxnet_words(error))) from error
    if not count:
        raise CalibrateError(message("There is no batch to calibrate on", required=f"samples for {dict(shapes)}"))
    state = getattr(executor, "tensorrt", None)
    ranges = tables.merge([s.calibrated_ranges() for s in state.sessions] if state is not None else [])
    if not ranges:
        raise CalibrateError(
            message(
                f"{prefix} has nothing that int8 would quantize",
                required="a convolution or a product with weights inside of a TensorRT node",
                next_step="mxnet-trt explain tells what is in TensorRT nodes; without such nodes set precision fp16",
            )
        )
    return ranges, count


def _image_options(arguments: argparse.Namespace) -> dict[str, float]:
    options = {"scale": arguments.scale}
    for kind in ("mean", "std"):
        options.update({f"{kind}_{c}": v for c, v in zip("rgb", getattr(arguments, kind))})
    return options


def read(path: Path, shapes: Mapping[str, tuple[int, ...]], image: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Returns batches of the given shapes out of a file or folder; what does not fill a last batch is left out.

    Raises:
        CalibrateError: The file is missing or of another kind, or its arrays do not fit the shapes.
    """
    try:
        if path.is_dir():
            parts = [np.load(file, allow_pickle=False) for file in sorted(path.glob("*.npy"))]
            return _cut(path, {next(iter(shapes)): _stack(parts, path, shapes)}, shapes)
        if path.suffix == ".npy":
            return _cut(path, {next(iter(shapes)): np.load(path, allow_pickle=False, mmap_mode="r")}, shapes)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            alone = len(arrays) == 1 and len(shapes) == 1
            return _cut(path, dict(zip(shapes, arrays.values())) if alone else arrays, shapes)
        if path.suffix == ".rec":
            return _images(path, shapes, image)
    except (OSError, ValueError, EOFError) as error:
        raise CalibrateError(
            message(f"The samples {path} cannot be read", found=f"{type(error).__name__}: {error}")
        ) from error
    raise CalibrateError(
        message(f"The samples {path} cannot be read", required="an .npy, .npz or .rec file, or a folder of .npy files")
    )


def _stack(parts: list[Any], path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """Returns the samples of several files as one array."""
    shape = next(iter(shapes.values()))
    if not parts:
        raise CalibrateError(message(f"The folder {path} has no .npy files"))
    return np.concatenate([part[None] if part.ndim == len(shape) - 1 else part for part in parts])


def _cut(path: Path, arrays: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, Any]]:
    if set(arrays) != set(shapes) or any(a.ndim == 0 or a.shape[1:] != shapes[n][1:] for n, a in arrays.items()):
        raise CalibrateError(
            message(
                f"The samples {path} do not fit the network's inputs",
                found=", ".join(f"{name}: {array.shape}" for name, array in arrays.items()),
                required=", ".join(f"{name}: {('M', *shape[1:])}" for name, shape in shapes.items()),
            )
        )
    count = min(len(array) // shapes[name][0] for name, array in arrays.items())
    return (
        {name: np.asarray(a[i * shapes[name][0] : (i + 1) * shapes[name][0]]) for name, a in arrays.items()}
        for i in range(count)
    )


def _images(
    path: Path, shapes: Mapping[str, tuple[int, ...]], options: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    import mxnet as mx

    ((name, shape),) = shapes.items() if len(shapes) == 1 else ((None, ()),)
    if name is None or len(shape) != 4 or not path.is_file():
        raise CalibrateError(
            message(f"The images {path} cannot be read", required="a file, and one --shape of N,C,H,W")
        )
    images = mx.io.ImageRecordIter(path_imgrec=str(path), data_shape=shape[1:], batch_size=shape[0], **options)
    return ({name: batch.data[0].asnumpy()} for batch in images if not batch.pad)
