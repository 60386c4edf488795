"""Measures what the cache saves on the CPU: the first forward of ResNet-50 in new processes, cold and warm.

    python ci/measure_cache.py [--rounds 5] [--model resnet50_v2]

Prints medians in milliseconds, cold (an empty folder), warm (what the cold one kept) and without a cache:

    ready      from the call of forward until the engine can run: weights compared, model written and built, or read
    weights    of that, the digests of the weights
    engine     of that, writing the model, building and keeping it, or finding, checking and loading it
    forward    from the call of forward to its result

The exit status is 1 if the engine is not ready in a fifth of the cold time, or the results differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (1, 3, 224, 224)
ROWS = ("ready", "weights", "engine", "forward")
LIMIT = 0.2


def worker(prefix: str) -> None:
    """Is the program: times its first forward, and prints a record."""
    import mxnet as mx
    import numpy as np

    import mxnet_trt_property
    from mxnet_trt_property.session import Session

    spent = {"weights": 0.0, "engine": 0.0}

    def timed(name: str, method: str) -> None:
        work = getattr(Session, method)

        def call(*given: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*given)
            finally:
                spent[name] += time.perf_counter() - start

        setattr(Session, method, call)

    timed("weights", "_look_at_weights")
    timed("engine", "_build")
    symbol, arguments, auxiliary = mx.model.load_checkpoint(prefix, 0)
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=SHAPE)
    executor.copy_params_from(arguments, auxiliary)
    data = mx.nd.array(np.random.RandomState(0).standard_normal(SHAPE).astype("float32"))
    mx.nd.waitall()
    start = time.perf_counter()
    result = executor.forward(is_train=False, data=data)[0].asnumpy()
    forward = time.perf_counter() - start
    (report,) = mxnet_trt_property.reports()
    record = {"forward": forward, "ready": sum(spent.values()), **spent, "loads": report.loads}
    record.update(engine_name=report.engine, result=result.astype("float64").ravel()[:20].tolist())
    print("RECORD " + json.dumps(record))


def run(prefix: str, folder: Path, cache: bool) -> dict[str, Any]:
    """Runs the program in a process of its own."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("MXNET_TENSORRT_")}
    variables.update(MXNET_SUBGRAPH_BACKEND="TensorRT", MXNET_TENSORRT_ENGINE="onnxruntime")
    variables.update(MXNET_TENSORRT_CACHE=str(int(cache)), MXNET_TENSORRT_CACHE_DIR=str(folder))
    variables["PYTHONPATH"] = f"{ROOT}{os.pathsep}{variables.get('PYTHONPATH', '')}"
    command = [sys.executable, __file__, "--worker", prefix]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    record: dict[str, Any] = json.loads(done.stdout.partition("RECORD ")[2])
    return record


def main() -> int:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="cold and warm processes")
    parser.add_argument("--model", default="resnet50_v2", help="a network of gluon.model_zoo.vision")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker)
        return 0
    sys.path.insert(0, str(ROOT))
    import mxnet as mx

    import mxnet_trt_property  # noqa: F401  # its import hook makes MXNet work on this NumPy

    found: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": [], "without": []}
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "net")
        net = mx.gluon.model_zoo.vision.get_model(arguments.model)
        net.initialize(mx.init.Xavier())
        net.hybridize()
        net(mx.nd.zeros(SHAPE))
        net.export(prefix)
        for number in range(arguments.rounds):
            cache = Path(folder) / f"cache{number}"
            for way, records in found.items():
                records.append(run(prefix, cache, way != "without"))
            assert [found[way][-1]["loads"] for way in found] == [0, 1, 0]
    same = len({json.dumps(record["result"]) for records in found.values() for record in records}) == 1
    print(f"{arguments.model}, {arguments.rounds} rounds, milliseconds{'':6}" + "".join(f"{way:>10}" for way in found))
    medians = {}
    for row in ROWS:
        medians[row] = [statistics.median(record[row] * 1e3 for record in found[way]) for way in found]
        ratio = f"   warm / cold {medians[row][1] / medians[row][0]:.3f}"
        print(f"  {row:<38}" + "".join(f"{value:>10.1f}" for value in medians[row]) + ratio)
    print(f"results {'identical' if same else 'DIFFER'}")
    return 0 if same and medians["ready"][1] <= LIMIT * medians["ready"][0] else 1


if __name__ == "__main__":
    sys.exit(main())
