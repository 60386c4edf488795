"""Runs networks in float16, bfloat16 and int8 on a GPU and compares with MXNet on the CPU in float32.

usage: python ci/gpu/verify_precision.py OUT [--data DIGITS.npz] [--models NAME,...] [--deadline SECONDS]
       python ci/gpu/verify_precision.py OUT --write-digits     (where scikit-learn is: writes OUT/digits.npz)

Four parts, each of which says what passed: networks of the model zoo in float16 (relative error at most 5e-3, same
class), trained digits in every precision (int8 loses at most a percentage point; left out without --data), networks
quantized by MXNet (its kernels' numbers but for a step), and the speed of ResNet-50 in each precision, as ratios. It
prints tables and writes OUT/precision.json. Exit status 1 if something failed; what the deadline leaves out is said.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mxnet_trt_property  # noqa: E402

NETWORKS = "inceptionv3,densenet121,resnet50_v2,vgg11,mobilenetv2_1.0,resnet18_v2,alexnet,squeezenet1.0"
TOLERANCE = 5e-3
# Of bfloat16 nothing is asked but sense: it has 8 bits.
BF16_TOLERANCE = 5e-2
# A sum on the edge between two integers may be rounded to either: a step of int8.
QUANTIZED_TOLERANCE = 1 / 127
WORKERS = 4
START = time.perf_counter()


def main() -> int:
    """Runs the parts and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="digits.npz")
    parser.add_argument("--write-digits", action="store_true")
    parser.add_argument("--models", default=NETWORKS)
    parser.add_argument("--deadline", type=float, default=75.0)
    parser.add_argument("--engine", default="tensorrt_rtx", help="another engine, to try the script out")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.write_digits:
        return write_digits(arguments.out / "digits.npz")
    os.environ["MXNET_TENSORRT_ENGINE"] = arguments.engine
    os.environ["MXNET_TENSORRT_ON_ERROR"] = "raise"
    if arguments.one:
        print("RECORD " + json.dumps(guarded(lambda: network(arguments.one))))
        return 0
    record: dict[str, Any] = {"engine": arguments.engine, "version": version(arguments.engine)}
    print(record, flush=True)
    record["zoo"] = zoo(arguments)
    if arguments.data is not None:
        record["digits"] = guarded(lambda: digits(arguments.data))
        print_record("digits", record["digits"])
    record["quantized"] = [guarded(lambda n=name: quantized(n)) for name in ("lenet", "residual", "convolutions")]
    for row in record["quantized"]:
        print_record("quantized by MXNet", row)
    record["speed"] = guarded(lambda: speed(arguments))
    print_record("speed", record["speed"])
    rows = [*record["zoo"], record.get("digits", {"passed": True}), *record["quantized"], record["speed"]]
    record["passed"] = all(row["passed"] for row in rows)
    record["seconds"] = time.perf_counter() - START
    (arguments.out / "precision.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{'passed' if record['passed'] else 'FAILED'} in {record['seconds']:.0f} s")
    return 0 if record["passed"] else 1


def guarded(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns what `work` returns, or a record of its failure: one fault must not keep the rest from being seen."""
    try:
        return work()
    except Exception:  # noqa: BLE001
        return {"passed": False, "error": traceback.format_exc()[-3000:]}


def version(engine: str) -> str:
    """Returns an engine's version."""
    from mxnet_trt_property.engines import registry

    return registry.get(engine).version()


def print_record(title: str, row: dict[str, Any]) -> None:
    """Prints a record on one line, a failure with its traceback."""
    words = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
    print(f"{title}: {words}", flush=True)


# ---- the zoo ----


def zoo(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs each network in a process of its own, some at once: most of the time is the CPU's."""
    names = arguments.models.split(",")
    with ThreadPoolExecutor(WORKERS) as pool:
        rows = list(pool.map(lambda name: in_process(name, arguments), names))
    print(f"{'network':<18}{'fp16 error':>12}{'class':>8}{'bf16 error':>12}{'in float32':>12}")
    for row in rows:
        if "fp16" in row:
            same = "same" if row["same_class"] else "OTHER"
            print(
                f"{row['network']:<18}{row['fp16']:>12.2e}{same:>8}{row['bf16']:>12.2e}{row['layers_in_float32']:>12}  "
                f"{'passed' if row['passed'] else 'FAILED'}"
            )
        else:
            print_record(row["network"], row)
    sys.stdout.flush()
    return rows


def in_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the record of one network, or that there was no time."""
    left = arguments.deadline * 0.6 - (time.perf_counter() - START)
    if left < 5:
        return {"network": name, "passed": True, "left_out": "no time"}
    command = [sys.executable, __file__, str(arguments.out), "--engine", arguments.engine, "--one", name]
    threads = str(max(1, (os.cpu_count() or 4) // WORKERS))
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=left + 15,
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )
    except subprocess.TimeoutExpired:
        return {"network": name, "passed": True, "left_out": "no time"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("RECORD ")]
    if not lines:
        return {"network": name, "passed": False, "error": (done.stdout + done.stderr)[-3000:]}
    return {"network": name, **json.loads(lines[-1][7:])}


def network(name: str) -> dict[str, Any]:
    """Compares one network in float16 and bfloat16 with MXNet in float32."""
    import mxnet as mx
    import numpy as np

    from tests.models import zoo as networks
    from tests.symbols import backend, taken_nodes

    net = networks.vision(name, size=224)
    data = mx.nd.array(np.random.default_rng(5).standard_normal(net.data_shapes["data"]))

    def run(kind: str, **variables: str) -> Any:
        with backend(kind, **variables):
            executor = net.symbol.simple_bind(mx.cpu(), grad_req="null", **net.data_shapes)
            executor.copy_params_from(net.arg_params, net.aux_params)
            executor.forward(is_train=False, data=data)[0].wait_to_read()
            found = executor.forward(is_train=False, data=data)[0].asnumpy()
        if kind == "TensorRT":
            if not taken_nodes(executor):
                raise AssertionError("no TensorRT node")
            engines.update(report.engine for report in mxnet_trt_property.reports())
        return found

    engines: set[str] = set()
    counts = CountingHandler.install()
    expected = run("NONE")
    row: dict[str, Any] = {}
    for kind in ("fp16", "bf16"):
        found = run("TensorRT", MXNET_TENSORRT_PRECISION=kind)
        row[kind] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        if kind == "fp16":
            row["same_class"] = bool((found.argmax(-1) == expected.argmax(-1)).all())
            row["layers_in_float32"] = counts.layers
        if not np.isfinite(found).all():
            raise AssertionError(f"{kind} is not finite")
    row["passed"] = (
        row["fp16"] <= TOLERANCE
        and row["same_class"]
        and row["bf16"] <= BF16_TOLERANCE
        and engines == {os.environ["MXNET_TENSORRT_ENGINE"]}
    )
    return row


class CountingHandler(logging.Handler):
    """Counts the layers that the package says it leaves in float32."""

    layers = 0

    @classmethod
    def install(cls) -> CountingHandler:
        """Returns a handler of the package's messages."""
        handler = cls()
        logger = logging.getLogger("mxnet_trt_property")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        return handler

    def emit(self, record: logging.LogRecord) -> None:
        """Reads the number out of the message."""
        if "first %d layers stay in float32" in str(record.msg) and record.args:
            self.layers = int(record.args[1])  # type: ignore[index, arg-type]


# ---- digits, and networks that MXNet quantized ----


def write_digits(path: Path) -> int:
    """Writes scikit-learn's digits, to be given as --data where it is not installed."""
    import numpy as np
    from sklearn.datasets import load_digits

    found = load_digits()
    np.savez_compressed(path, images=found.images.astype(np.uint8), labels=found.target.astype(np.uint8))
    print(f"{path}: {len(found.target)} images, {path.stat().st_size} bytes")
    return 0


def digits(path: Path) -> dict[str, Any]:
    """Returns the accuracy on held-out digits in each precision; the network is trained here."""
    import mxnet as mx
    import numpy as np

    from tests.precision.digits import BATCH, trained
    from tests.symbols import backend

    net = trained(str(path))

    def accuracy(kind: str, **variables: str) -> float:
        with backend(kind, **variables):
            executor = net.symbol.simple_bind(mx.cpu(), grad_req="null", data=(BATCH, 1, 8, 8))
            executor.copy_params_from(net.arg_params, net.aux_params)
            for i in range(3):  # the first two calibrate
                executor.forward(data=mx.nd.array(net.images[i * BATCH : (i + 1) * BATCH]))[0].wait_to_read()
            scores = [executor.forward(data=mx.nd.array(batch))[0].asnumpy() for batch in net.held_out()]
        return net.accuracy(np.concatenate(scores))

    row: dict[str, Any] = {"mxnet_fp32": accuracy("NONE")}
    for kind in ("fp32", "fp16", "bf16", "int8"):
        variables = {"MXNET_TENSORRT_CALIBRATION_ITERS": "2"} if kind == "int8" else {}
        row[kind] = accuracy("TensorRT", MXNET_TENSORRT_PRECISION=kind, **variables)
    row["passed"] = row["mxnet_fp32"] > 0.95 and row["mxnet_fp32"] - row["int8"] <= 0.01
    return row


def quantized(name: str) -> dict[str, Any]:
    """Compares a network of mx.contrib.quantization with MXNet's int8 kernels, or with ONNX Runtime's numbers."""
    import mxnet as mx
    import numpy as np

    from tests.precision import quantized as networks
    from tests.symbols import backend

    options = {
        "lenet": {"quantized_dtype": "auto", "quantize_mode": "full", "signed": False},
        "residual": {"quantized_dtype": "int8", "signed": True},
        "convolutions": {"quantized_dtype": "int8", "quantize_mode": "full", "signed": True},
    }[name]
    net = networks.quantize(getattr(networks, name)(), **options)
    if name == "convolutions":  # MXNet's CPU kernels refuse it
        engine = os.environ["MXNET_TENSORRT_ENGINE"]
        os.environ["MXNET_TENSORRT_ENGINE"] = "onnxruntime"
        try:
            _, expected = networks.run(net, "TensorRT")
        finally:
            os.environ["MXNET_TENSORRT_ENGINE"] = engine
    else:
        _, expected = networks.run(net, "NONE")
    try:
        with backend("TensorRT"):
            _, found = networks.run(net, "TensorRT")
    except mx.base.MXNetError as failure:
        # What the engine does not build in int8 stays with MXNet, which then says that it cannot run it either.
        if name != "convolutions" or "only supports uint8" not in str(failure):
            raise
        return {"network": name, "passed": True, "left_out": "neither the engine nor MXNet's CPU kernels run it"}
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return {"network": name, "relative_error": error, "passed": error <= QUANTIZED_TOLERANCE}


# ---- speed ----


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns milliseconds of ResNet-50 at batch 1 and 32 in each precision, arrays in host memory, and ratios."""
    import numpy as np

    from tests.models import zoo as networks

    row: dict[str, Any] = {}
    for batch in (32, 1):
        net = networks.vision("resnet50_v2", batch=batch, size=224)
        data = np.random.default_rng(5).standard_normal(net.data_shapes["data"]).astype(np.float32)
        expected = None
        for kind in ("fp32", "fp16", "int8", "bf16"):
            if time.perf_counter() - START > arguments.deadline:
                row[f"batch_{batch}_{kind}"] = "left out: no time"
                continue
            options: dict[str, Any] = {"calibration": data, "calibration_method": "minmax"} if kind == "int8" else {}
            model = mxnet_trt_property.compile(
                net.symbol, net.arg_params, net.aux_params, net.data_shapes, precision=kind, keep_onnx=False, **options
            )
            bound = model.bind(data)
            times, stop = [], time.perf_counter() + 0.7
            while len(times) < 10 or time.perf_counter() < stop:
                start = time.perf_counter()
                found = bound()
                times.append(time.perf_counter() - start)
            found = np.array(found)
            expected = found if expected is None else expected
            row[f"batch_{batch}_{kind}_ms"] = float(np.median(times)) * 1e3
            row[f"batch_{batch}_{kind}_error"] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
            row[f"batch_{batch}_{kind}_ratio"] = row[f"batch_{batch}_fp32_ms"] / row[f"batch_{batch}_{kind}_ms"]
            model.close()
    # What is asked is that they run; the ratios are for the documents.
    row["passed"] = all(np.isfinite(v) for k, v in row.items() if k.endswith(("_ms", "_error")))
    return row


if __name__ == "__main__":
    sys.exit(main())
