"""Runs whole networks through simple_bind on a GPU machine and compares with MXNet on the CPU.

usage: python ci/gpu/verify_models.py --out DIR [--context cpu|gpu] [--models NAME,...] [--batch N] [--seconds S]

The same program is bound twice: MXNET_SUBGRAPH_BACKEND=NONE on mx.cpu() is the reference, TensorRT on the context asked
for is the candidate. Prints a table and writes DIR/models-CONTEXT.json. Exit status 1 if a network is not one TensorRT
node, ran on another engine, or is off by more than 2e-3 (TF32).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mxnet_trt_property  # noqa: E402

FAMILIES = "alexnet,vgg11_bn,resnet18_v2,resnet50_v1,mobilenet1.0,mobilenetv2_1.0,squeezenet1.1,densenet121,inceptionv3"
TOLERANCE = 2e-3


def main() -> int:
    """Runs the networks and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--context", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--models", default=FAMILIES)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", filename=arguments.out / "log.txt")
    rows = []
    for name in arguments.models.split(","):
        try:
            rows.append(verify(name, arguments))
        except Exception:  # noqa: BLE001 - one network must not keep the others from being looked at
            rows.append({"model": name, "passed": False, "error": traceback.format_exc()})
        print_row(rows[-1])
    record = {"machine": machine(), "context": arguments.context, "batch": arguments.batch, "rows": rows}
    (arguments.out / f"models-{arguments.context}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["machine"]))
    return 0 if all(r["passed"] for r in rows) else 1


def verify(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the record of one network."""
    import mxnet as mx
    import numpy as np

    from tests.models import zoo
    from tests.symbols import backend, taken_nodes

    size = 299 if name == "inceptionv3" else 224
    net = zoo.vision(name, batch=arguments.batch, size=size)
    data = mx.nd.array(np.random.default_rng(5).standard_normal(net.data_shapes["data"]))

    def bind(backend_name: str, context: Any) -> Any:
        with backend(backend_name):
            executor = net.symbol.simple_bind(context, grad_req="null", **net.data_shapes)
        executor.copy_params_from(net.arg_params, net.aux_params)
        return executor

    def timed(executor: Any, source: Any) -> tuple[Any, float, float]:
        start = time.perf_counter()
        first = executor.forward(is_train=False, data=source)[0].asnumpy()
        first_seconds = time.perf_counter() - start
        times, stop = [], time.perf_counter() + arguments.seconds
        while len(times) < 10 or time.perf_counter() < stop:
            start = time.perf_counter()
            executor.forward(is_train=False, data=source)[0].wait_to_read()
            times.append(time.perf_counter() - start)
        last = executor.outputs[0].asnumpy()
        if not np.array_equal(first, last) and np.abs(first - last).max() > 1e-3 * np.abs(first).max():
            raise AssertionError("the first forward and the last one differ")
        return last, float(np.median(times)) * 1e3, first_seconds

    expected, mxnet_ms, _ = timed(bind("NONE", mx.cpu()), data)
    context = mx.gpu(0) if arguments.context == "gpu" else mx.cpu()
    executor = bind("TensorRT", context)
    found, ours_ms, first_seconds = timed(executor, data.as_in_context(context))
    report = mxnet_trt_property.reports()[-1]
    operators = len(executor.tensorrt.made.decisions.decisions) if hasattr(executor, "tensorrt") else 0
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    row = {
        "model": name,
        "engine": report.engine,
        "nodes_taken": len(taken_nodes(executor)),
        "operators": operators,
        "subgraphs": executor.tensorrt.made.decisions.subgraph_count,
        "relative_error": error,
        "same_argmax": bool((found.argmax(-1) == expected.argmax(-1)).all()),
        "mxnet_cpu_ms": mxnet_ms,
        "tensorrt_ms": ours_ms,
        "first_forward_s": first_seconds,
    }
    row["passed"] = (
        report.engine.startswith("tensorrt")
        and row["nodes_taken"] == operators > 0
        and row["subgraphs"] == 1
        and error <= TOLERANCE
        and row["same_argmax"]
    )
    del executor
    return row


def print_row(row: dict[str, Any]) -> None:
    """Prints one line of the table."""
    if "error" in row:
        print(f"{row['model']:<18} FAILED\n{row['error']}", flush=True)
        return
    print(
        f"{row['model']:<18} {row['engine']:<14} {row['nodes_taken']:>4}/{row['operators']:<4} in {row['subgraphs']} "
        f"error {row['relative_error']:.1e} argmax {'same' if row['same_argmax'] else 'DIFFERS'} "
        f"mxnet {row['mxnet_cpu_ms']:8.2f} ms  tensorrt {row['tensorrt_ms']:7.3f} ms  "
        f"first {row['first_forward_s']:5.1f} s "
        f"{'passed' if row['passed'] else 'FAILED'}",
        flush=True,
    )


def machine() -> dict[str, Any]:
    """Returns what the numbers depend on."""
    import mxnet as mx
    import numpy as np
    import onnx

    from mxnet_trt_property import cuda_driver
    from mxnet_trt_property.engines import registry

    driver = cuda_driver.default()
    info = driver.device_info(0)
    return {
        "gpu": info.name,
        "compute_capability": ".".join(str(n) for n in info.compute_capability),
        "cuda_driver": ".".join(str(n) for n in driver.version()),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "mxnet": mx.__version__,
        "onnx": onnx.__version__,
        "tensorrt_rtx": registry.get("tensorrt_rtx").version(),
        "mxnet_trt_property": mxnet_trt_property.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
