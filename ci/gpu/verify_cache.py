"""Shows on a GPU that engines kept on disk are used, are right, and save what they should. Takes about a minute.

Each run is a process of its own: an unchanged program binds ResNet-50 and times its first forward, from the call to the
result. Checked are

    warm            with what a first process kept, the first forward takes at most a fifth of the cold one
    ahead           what `mxnet-trt build` wrote without a GPU (CUDA_VISIBLE_DEVICES is empty) is used
    damaged         a file that was changed is noticed, and the result is right
    two at once     two processes that start together build one engine
    fp16            the same in half precision, without a limit

    python ci/gpu/verify_cache.py --out FOLDER [--engine tensorrt_rtx] [--budget 85]

Prints a table, writes FOLDER/cache.json, and exits with 0 if nothing failed. What the budget of seconds does
not allow is listed as not run; only the first three are required.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (1, 3, 224, 224)
TOLERANCE = {"onnxruntime": 1e-5}  # ||a - b|| / ||b|| against MXNet
TF32_TOLERANCE = 2e-3
FP16_TOLERANCE = 1e-2
SAME_TOLERANCE = 1e-3  # between two processes with one engine: kernels may be other ones
LIMIT = 0.2


def worker(arguments: argparse.Namespace) -> int:
    """Is the program: binds, runs, and prints a record."""
    import mxnet_trt_property  # noqa: F401 - its shims come before mxnet
    import mxnet as mx  # isort: skip
    import numpy as np

    symbol, args, auxs = mx.model.load_checkpoint(arguments.worker, 0)
    data = mx.nd.array(np.random.RandomState(0).standard_normal(SHAPE).astype("float32"))
    start = time.perf_counter()
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=SHAPE)
    bound = time.perf_counter()
    executor.copy_params_from(args, auxs)
    mx.nd.waitall()
    if arguments.at:
        while time.time() < arguments.at:
            time.sleep(0.001)
    before = time.perf_counter()
    result = executor.forward(is_train=False, data=data)[0].asnumpy()
    first = time.perf_counter() - before
    times = []
    for _ in range(5):
        before = time.perf_counter()
        again = executor.forward(is_train=False, data=data)[0].asnumpy()
        times.append(time.perf_counter() - before)
    np.save(arguments.result, result)
    reports = [report._asdict() for report in mxnet_trt_property.reports()]
    record = {
        "first_ms": first * 1e3,
        "bind_ms": (bound - start) * 1e3,
        "later_ms": sorted(times)[2] * 1e3,
        "stable": bool(np.abs(again - result).max() <= SAME_TOLERANCE * np.abs(result).max()),
        "engines": sorted({r["engine"] for r in reports}),
        "builds": sum(r["builds"] for r in reports),
        "loads": sum(r["loads"] for r in reports),
    }
    print("RECORD " + json.dumps(record))
    return 0


class Verification:
    """Runs the checks and records them."""

    def __init__(self, folder: Path, engine: str, budget_s: float) -> None:
        self.folder = folder
        self.engine = engine
        self.prefix = str(folder / "net")
        self.end = time.monotonic() + budget_s
        self.records: list[dict[str, Any]] = []
        self.reference: Any = None
        self.cold: dict[str, Any] = {}

    def start(self, cache: str, precision: str = "fp32", at: float = 0.0, backend: str = "TensorRT") -> Any:
        """Starts the program with a cache folder of this name; "off" means none."""
        variables = {k: v for k, v in os.environ.items() if not k.startswith("MXNET_TENSORRT_")}
        variables["PYTHONPATH"] = f"{ROOT}{os.pathsep}{variables.get('PYTHONPATH', '')}"
        variables["MXNET_SUBGRAPH_BACKEND"] = backend
        given = {"ENGINE": self.engine, "CACHE_DIR": str(self.folder / cache), "PRECISION": precision}
        given.update(ON_ERROR="raise", CACHE="0" if cache == "off" else "1")
        variables.update({f"MXNET_TENSORRT_{name}": value for name, value in given.items()})
        result = self.folder / f"{cache}-{len(os.listdir(self.folder))}-{at}.npy"
        command = [sys.executable, __file__, "--worker", self.prefix, "--result", str(result), "--at", str(at)]
        process = subprocess.Popen(
            command, env=variables, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        return process, result

    def finish(self, started: Any) -> tuple[dict[str, Any], Any]:
        """Returns the record and the result of a program."""
        import numpy as np

        process, result = started
        out, err = process.communicate(timeout=120)
        lines = [line for line in out.splitlines() if line.startswith("RECORD ")]
        assert process.returncode == 0 and lines, f"exit status {process.returncode}: {err[-2000:]}"
        record = json.loads(lines[-1][7:])
        record["log"] = [line for line in err.splitlines() if " | " in line]
        return record, np.load(result)

    def run(self, cache: str, precision: str = "fp32") -> dict[str, Any]:
        """Runs the program once and compares its result with MXNet's."""
        record, result = self.finish(self.start(cache, precision))
        record["error"] = self.error(result)
        limit = FP16_TOLERANCE if precision == "fp16" else TOLERANCE.get(self.engine, TF32_TOLERANCE)
        assert record["error"] <= limit, f"relative error {record['error']:.2e}"
        assert record["stable"], "the same forward gave other numbers"
        assert record["engines"] == [self.engine], record["engines"]
        return record

    def error(self, result: Any) -> float:
        """Returns ||a - b|| / ||b|| against MXNet."""
        import numpy as np

        distance = np.linalg.norm((result.astype("float64") - self.reference).ravel())
        return float(distance / np.linalg.norm(self.reference.astype("float64").ravel()))

    def check(self, name: str, function: Callable[[], dict[str, Any]], required: bool = True) -> None:
        """Runs one check; it fails by raising."""
        if time.monotonic() > self.end and not required:
            self.records.append({"check": name, "ok": None, "required": required, "note": "not run: no time left"})
            print(f"  -  {name:12} not run: no time left", flush=True)
            return
        start = time.perf_counter()
        try:
            details, ok = function(), True
        except Exception as error:
            details, ok = {"failure": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}, False
        seconds = time.perf_counter() - start
        self.records.append({"check": name, "ok": ok, "required": required, "seconds": round(seconds, 1), **details})
        shown = ", ".join(f"{key} {_short(value)}" for key, value in details.items() if key not in ("trace", "log"))
        print(f"{'ok  ' if ok else 'FAIL'} {name:12} {seconds:6.1f} s  {shown}", flush=True)

    # -- the checks ----------------------------------------------------------------------------

    def prepare(self) -> dict[str, Any]:
        """Exports the network and computes the reference."""
        import mxnet_trt_property  # noqa: F401  # its import hook makes MXNet work on this NumPy
        from mxnet_trt_property.cli.demo import export_gluon

        export_gluon("resnet50_v2", self.prefix)
        _, self.reference = self.finish(self.start("off", backend="NONE"))
        return {}

    def first(self) -> dict[str, Any]:
        """An empty cache: the engine is built and kept."""
        self.cold = self.run("cache")
        assert (self.cold["builds"], self.cold["loads"]) == (1, 0), self.cold
        files = {file.name.partition("-")[0]: file.stat().st_size for file in (self.folder / "cache").iterdir()}
        assert "engine" in files, files
        return {**self.cold, "kept_bytes": files}

    def warm(self) -> dict[str, Any]:
        """With what it kept: nothing is built, and a fifth of the time suffices."""
        runs = [self.run("cache") for _ in range(3)]
        assert all((run["builds"], run["loads"]) == (0, 1) for run in runs), runs
        times = sorted(run["first_ms"] for run in runs)
        ratio = times[1] / self.cold["first_ms"]
        details = {"cold_ms": self.cold["first_ms"], "warm_ms": times, "ratio": ratio, "error": runs[0]["error"]}
        details.update(bind_ms=[run["bind_ms"] for run in runs], log=[run["log"] for run in runs])
        assert ratio <= LIMIT, f"{ratio:.3f} of the cold first forward, allowed is {LIMIT}: {details}"
        return details

    def off(self) -> dict[str, Any]:
        """Without a cache: what keeping costs the first process is the difference to it."""
        run = self.run("off")
        assert (run["builds"], run["loads"]) == (1, 0), run
        return {"first_ms": run["first_ms"], "with_keeping_ms": self.cold["first_ms"]}

    def ahead(self) -> dict[str, Any]:
        """An engine that was built with no GPU in sight is used on the GPU."""
        variables = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "mxnet_trt_property", "build", self.prefix, "--shape"]
        command += ["data=" + ",".join(map(str, SHAPE)), "--cache-dir", str(self.folder / "ahead"), "--json"]
        variables["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
        done = subprocess.run(command, env=variables, text=True, capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        built = json.loads(done.stdout.splitlines()[-1])
        first, second = self.run("ahead"), self.run("ahead")
        assert (first["builds"], first["loads"]) == (0, 1), first
        assert (second["builds"], second["loads"]) == (0, 1), second
        return {"built": built["subgraphs"], "first_ms": first["first_ms"], "second_ms": second["first_ms"]}

    def damaged(self) -> dict[str, Any]:
        """Every file of the cache is changed in the middle: it is told, the result is right, all is written anew."""
        files = list((self.folder / "ahead").glob("*.mxtrtc"))
        for file in files:
            with open(file, "r+b") as stream:
                stream.seek(file.stat().st_size // 2)
                byte = stream.read(1)
                stream.seek(-1, os.SEEK_CUR)
                stream.write(bytes([byte[0] ^ 1]))
        run, again = self.run("ahead"), self.run("ahead")
        assert (run["builds"], run["loads"]) == (1, 0), run
        assert any("counts as not there" in line for line in run["log"]), run["log"]
        assert (again["builds"], again["loads"]) == (0, 1), again
        return {"files": len(files), "first_ms": run["first_ms"], "second_ms": again["first_ms"]}

    def two_at_once(self) -> dict[str, Any]:
        """Two processes begin their first forward at the same time."""
        at = time.time() + 12
        started = [self.start("both", at=at + 1e-6 * n) for n in range(2)]
        runs = [self.finish(one) for one in started]
        builds, loads = (sum(run[name] for run, _ in runs) for name in ("builds", "loads"))
        assert (builds, loads) == (1, 1), [run for run, _ in runs]
        errors = [self.error(result) for _, result in runs]
        assert max(errors) <= TF32_TOLERANCE, errors
        return {"first_ms": [run["first_ms"] for run, _ in runs], "error": max(errors)}

    def half(self) -> dict[str, Any]:
        """Half precision: the model is rewritten at each start, by what the first inputs are."""
        cold, warm = self.run("half", "fp16"), self.run("half", "fp16")
        assert (cold["builds"], warm["loads"]) == (1, 1), (cold, warm)
        ratio = warm["first_ms"] / cold["first_ms"]
        return {"cold_ms": cold["first_ms"], "warm_ms": warm["first_ms"], "ratio": ratio, "error": warm["error"]}

    def all(self) -> bool:
        """Runs all checks; returns whether the required ones passed."""
        self.check("prepare", self.prepare)
        self.check("cold", self.first)
        self.check("warm", self.warm)
        if self.engine == "tensorrt_rtx":
            self.check("ahead", self.ahead)
            self.check("damaged", self.damaged, required=False)
        self.check("two at once", self.two_at_once, required=False)
        self.check("no cache", self.off, required=False)
        self.check("fp16", self.half, required=False)
        return all(record["ok"] is not False for record in self.records)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 10 else f"{value:.0f}"
    return [_short(v) for v in value] if isinstance(value, list) else value


def main() -> int:
    """Runs the checks and writes the record; with --worker, is the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for cache.json")
    parser.add_argument("--engine", default="tensorrt_rtx", help="the engine to verify")
    parser.add_argument("--budget", type=float, default=85.0, help="seconds after which nothing optional is begun")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    parser.add_argument("--at", type=float, default=0.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments)
    if arguments.out is None:
        parser.error("--out is required")
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="mxnet-trt-verify-") as folder:
        verification = Verification(Path(folder), arguments.engine, arguments.budget)
        passed = verification.all()
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {"passed": passed, "engine": arguments.engine, "limit": LIMIT, "checks": verification.records}
    (arguments.out / "cache.json").write_text(json.dumps(report, indent=1) + "\n")
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
