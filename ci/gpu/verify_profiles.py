"""Verifies engines that serve a range of shapes on a machine with a GPU; needs no network.

    python ci/gpu/verify_profiles.py --out DIR [--engine tensorrt_rtx] [--seconds 75] [--batches 1,2,31]

1. speed: ResNet-50 with the profile 1 to 32 against an engine of fixed shapes, at the batch it is tuned for: medians of
   replays of the captured runs, interleaved in one process. Passes up to a ratio of 1.10. For TensorRT-RTX also each
   way of making kernels for a shape: how long a context takes, and how fast it is.
2. results: executors of ResNet-50 at each batch from 1 to 32, with one build for all of them, against MXNet on the CPU.
   What `--seconds` does not suffice for is listed; `--batches` says which to do first.
3. networks: BERT, a reader of text with LSTMs, and a bucketing network over lengths and batches. One build each; but
   where the package says that the engine cannot have one for all shapes, right results are enough.

Each check prints one line; DIR/profiles.json has the details. Exit status 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import mxnet_trt_property  # noqa: E402, I001  (before mxnet: it gives MXNet the names that NumPy took away)
import mxnet as mx  # noqa: E402
from mxnet_trt_property import logs, programs  # noqa: E402
from mxnet_trt_property.engines import trt_build  # noqa: E402
from tests.models import sequences, zoo  # noqa: E402
from tests.models.build import Network  # noqa: E402
from tests.symbols import backend  # noqa: E402

TOLERANCE = 2e-3  # relative error in the 2-norm; TF32 is always on in TensorRT-RTX
MOST_SLOWER = 1.10
LARGEST = 32
ORDER = (32, 8, 1, 2, 31, 16, 3, 7, 17, 24)


def error(found: Any, expected: Any) -> float:
    """Returns the relative error in the 2-norm."""
    if found.shape != expected.shape or not np.all(np.isfinite(found)):
        return float("inf")
    return float(np.linalg.norm((found - expected).ravel()) / max(float(np.linalg.norm(expected.ravel())), 1e-9))


def resnet50() -> Network:
    """Returns a ResNet-50 at the largest batch."""
    return zoo.vision("resnet50_v2", batch=LARGEST, size=224)


def compile_at(net: Network, engine: str, **shapes: Any) -> tuple[Any, float]:
    """Returns a compiled model and the seconds that it took."""
    start = time.perf_counter()
    model = mxnet_trt_property.compile(net.symbol, net.arg_params, net.aux_params, engine=engine, **shapes)
    return model, time.perf_counter() - start


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Returns the median milliseconds of each call, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(5):
            call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def profile(tuned: int) -> dict[str, Any]:
    """Returns the profile of batches 1 to 32."""
    return {"data": tuple((n, 3, 224, 224) for n in (1, tuned, LARGEST))}


def check_speed(net: Network, engine: str, tuned: int, repeats: int) -> dict[str, Any]:
    """Compares the engine of a range with one of fixed shapes, at the batch that both are made for."""
    data = np.random.default_rng(0).standard_normal((tuned, 3, 224, 224)).astype("float32")
    fixed, fixed_s = compile_at(net, engine, shapes={"data": data.shape})
    ranged, ranged_s = compile_at(net, engine, profiles=profile(tuned))
    bound = {"fixed": fixed.bind(data), "range": ranged.bind(data)}
    results = {name: np.array(call()) for name, call in bound.items()}
    ms = interleaved({name: call.bare() or call for name, call in bound.items()}, repeats)
    ratio = ms["range"] / ms["fixed"]
    difference = error(results["range"], results["fixed"])
    row = {"tuned": tuned, "ms": ms, "ratio": ratio, "seconds": {"fixed": fixed_s, "range": ranged_s}}
    return {**row, "difference": difference, "passed": ratio <= MOST_SLOWER and difference <= TOLERANCE}


def strategies(net: Network, engine: str, repeats: int) -> list[dict[str, Any]]:
    """Tells of each way of TensorRT-RTX to make kernels for a shape how long a context takes and how fast it is."""
    library = trt_build.library(engine)
    kinds = getattr(library.module(), "DynamicShapesKernelSpecializationStrategy", None)
    if kinds is None:
        return []
    model, _ = compile_at(net, engine, profiles=profile(LARGEST))
    eager = trt_build.Library._eager_config
    rows = []
    for name in ("EAGER", "LAZY", "NONE"):

        def config(self: Any, loaded: Any, given: Any, kind: str = name) -> Any:
            made = given or loaded.create_runtime_config()
            made.dynamic_shapes_kernel_specialization_strategy = getattr(kinds, kind)
            return made

        trt_build.Library._eager_config = config  # type: ignore[method-assign]
        try:
            for batch in (1, 8, LARGEST):
                data = np.zeros((batch, 3, 224, 224), np.float32)
                start = time.perf_counter()
                bound = model.bind(data)
                bound()
                seconds = time.perf_counter() - start
                ms = interleaved({"range": bound.bare() or bound}, repeats)["range"]
                rows.append({"strategy": name, "batch": batch, "seconds_to_first_result": seconds, "ms": ms})
                del bound
                model._idle._seats.clear()  # the next one makes its own context
        finally:
            trt_build.Library._eager_config = eager  # type: ignore[method-assign]
    return rows


def bind(net: Network, shapes: dict[str, Any], **variables: str) -> Any:
    """Returns an executor with the network's parameters."""
    name = "TensorRT" if variables else "NONE"
    with backend(name, **variables):
        executor = net.symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    executor.copy_params_from(net.arg_params, net.aux_params, allow_extra_params=True)
    return executor


def check_batches(net: Network, engine: str, batches: list[int], until: float) -> dict[str, Any]:
    """Binds executors of each batch, and compares each with MXNet."""
    data = np.random.default_rng(1).standard_normal((LARGEST, 3, 224, 224)).astype("float32")
    expected = bind(net, {"data": data.shape}).forward(is_train=False, data=mx.nd.array(data))[0].asnumpy()
    before, rows = programs.build_count(), []
    for batch in batches:
        if time.monotonic() > until:
            break
        start = time.perf_counter()
        variables = {"MXNET_TENSORRT_MAX_BATCH_SIZE": str(LARGEST), "MXNET_TENSORRT_ENGINE": engine}
        executor = bind(net, {"data": (batch, 3, 224, 224)}, MXNET_TENSORRT_ON_ERROR="raise", **variables)
        worst = 0.0
        for first in (0, LARGEST - batch):
            part = mx.nd.array(data[first : first + batch])
            with backend("TensorRT", MXNET_TENSORRT_ON_ERROR="raise"):
                found = executor.forward(is_train=False, data=part)[0].asnumpy()
            worst = max(worst, error(found, expected[first : first + batch]))
        rows.append({"batch": batch, "error": worst, "seconds": time.perf_counter() - start})
        del executor
    builds = programs.build_count() - before
    missing = sorted(set(batches) - {row["batch"] for row in rows})
    passed = builds == 1 and bool(rows) and all(row["error"] <= TOLERANCE for row in rows)
    return {"rows": rows, "builds": builds, "not_reached": missing, "passed": passed}


def check_network(make: Callable[[int], Network], engine: str) -> dict[str, Any]:
    """Binds a network at several batches; all parameters are those of the first."""
    net, before, worst = make(4), programs.build_count(), 0.0
    for batch in (4, 1, 3):
        here = make(batch)
        data = here.data()
        variables = {"MXNET_TENSORRT_MAX_BATCH_SIZE": "4", "MXNET_TENSORRT_ENGINE": engine}
        with backend("TensorRT", MXNET_TENSORRT_ON_ERROR="raise"):
            ours = bind(net, dict(here.data_shapes), MXNET_TENSORRT_ON_ERROR="raise", **variables)
            found = [o.asnumpy() for o in ours.forward(is_train=False, **data)]
        stock = bind(net, dict(here.data_shapes)).forward(is_train=False, **data)
        worst = max([worst, *(error(f, e.asnumpy()) for f, e in zip(found, stock))])
    builds = programs.build_count() - before
    return {"error": worst, "builds": builds, "passed": builds == 1 and worst <= TOLERANCE}


def sentences(engine: str) -> dict[str, Any]:
    """Runs a BucketingModule over lengths and batches."""
    from tests.doors.test_dynamic_shapes import sentence

    def predict(name: str) -> list[Any]:
        variables = {"MXNET_TENSORRT_PROFILES": "{'data': ((1, 2), (4, 8), (4, 12))}", "MXNET_TENSORRT_ENGINE": engine}
        with backend(name, MXNET_TENSORRT_ON_ERROR="raise", **variables):
            mx.random.seed(2)
            np.random.seed(2)
            module = mx.mod.BucketingModule(sentence, default_bucket_key=12)
            module.bind([mx.io.DataDesc("data", (4, 12))], for_training=False)
            module.init_params(mx.init.Uniform(0.5))
            outputs = []
            for count, length in ((4, 12), (4, 5), (4, 2), (2, 12)):
                words = mx.nd.array(np.random.RandomState(length).randint(0, 20, (count, length)))
                described = [mx.io.DataDesc("data", words.shape)]
                module.forward(mx.io.DataBatch([words], bucket_key=length, provide_data=described), is_train=False)
                outputs.append(module.get_outputs()[0].asnumpy())
            return outputs

    before = programs.build_count()
    found = predict("TensorRT")
    builds = programs.build_count() - before
    worst = max(error(f, e) for f, e in zip(found, predict("NONE")))
    refused = builds > 1 and bool(told())
    passed = worst <= TOLERANCE and (builds == 1 or refused)
    return {"error": worst, "builds": builds, "refused": refused, "passed": passed}


def told() -> list[str]:
    """Returns what the package said about shapes that get engines of their own."""
    return sorted(text for text in logs._given if "engine per shape" in text or "shapes alone" in text)


def text(row: Any) -> str:
    """Returns a row for the screen."""
    if isinstance(row, float):
        return f"{row:.4g}"
    if isinstance(row, dict):
        return " ".join(f"{k}={text(v)}" for k, v in row.items())
    return "[" + "; ".join(text(v) for v in row) + "]" if isinstance(row, list) else str(row)


def main() -> int:
    """Runs the checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--engine", default="tensorrt_rtx")
    parser.add_argument("--seconds", type=float, default=75)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--batches", default="", help="batches to do first, such as 1,2,31")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    arguments.out.mkdir(parents=True, exist_ok=True)
    engine, net = arguments.engine, resnet50()
    first = [int(n) for n in arguments.batches.split(",") if n] or list(ORDER)
    batches = list(dict.fromkeys([*first, *range(1, LARGEST + 1)]))
    checks: list[tuple[str, Callable[[], Any]]] = [
        ("speed at 32", lambda: check_speed(net, engine, 32, arguments.repeats)),
        ("speed at 8", lambda: check_speed(net, engine, 8, arguments.repeats)),
        ("bert", lambda: check_network(lambda n: sequences.bert(batch=n), engine)),
        ("crnn", lambda: check_network(lambda n: sequences.crnn(batch=n), engine)),
        ("bucketing", lambda: sentences(engine)),
        ("strategies", lambda: strategies(net, engine, arguments.repeats // 2)),
        ("batches", lambda: check_batches(net, engine, batches, end)),
    ]
    record: dict[str, Any] = {"engine": engine, "version": trt_build.library(engine).version}
    failed = 0
    for name, check in checks:
        start = time.monotonic()
        try:
            row = check()
        except Exception:  # the other checks tell something all the same
            row = {"passed": False, "exception": traceback.format_exc()}
        record[name] = row
        passed = row.get("passed", True) if isinstance(row, dict) else True
        failed += not passed
        print(f"{'ok  ' if passed else 'FAIL'} {name} ({time.monotonic() - start:.1f} s): {text(row)}", flush=True)
        (arguments.out / "profiles.json").write_text(json.dumps(record, indent=1) + "\n")
    record["told"] = told()
    (arguments.out / "profiles.json").write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(record["told"]))
    print("passed" if not failed else f"{failed} check(s) failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
