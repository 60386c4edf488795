"""Verifies new weights on a GPU: refitted engines give what MXNet gives, and what a refit saves and costs.

usage: python ci/gpu/verify_refit.py --out DIR [--model resnet50_v2] [--changes 10] [--more 40]

Every result is compared with MXNet's on the CPU with the same weights (2e-3: TF32). Where the library lets kernels
overlap that must not (TensorRT-RTX on Hopper), the package builds again at each change; the script first checks that,
and then trusts the refit to see whether it is right after all: 'refit is right' has to hold for many changes before
`trt_refit.TRUST_OVERLAPPING_KERNELS` may be given up. Where no engine can be built so that it takes new weights, the
checks of refits say so with the library's words and pass if the results are right all the same. DIR/refit.json has all.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mxnet_trt_property  # noqa: E402, F401 - its shims come before mxnet
from ci.gpu.checks import Checks  # noqa: E402
from mxnet_trt_property import programs  # noqa: E402
from mxnet_trt_property.cli import bench_machine  # noqa: E402
from mxnet_trt_property.engines import trt_refit  # noqa: E402

os.environ["MXNET_TENSORRT_CACHE"] = "0"  # an engine that is read from disk is neither built nor refitted

TOLERANCE = 2e-3
TOLERANCE_FP16 = 2e-2


class Refits:
    """The checks, on one network.

    Args:
        model: Its name in MXNet's model zoo.
        changes: How often weights change in each check.
        more: How often they change in the check of the refit itself.
    """

    def __init__(self, model: str, changes: int, more: int) -> None:
        import mxnet as mx
        import numpy as np

        from tests.models import zoo
        from tests.symbols import backend

        self.mx, self.np, self.backend = mx, np, backend
        self.net = zoo.vision(model, size=224)
        self.changes, self.more = changes, more
        self.data = mx.nd.array(np.random.default_rng(5).standard_normal(self.net.data_shapes["data"]))
        self.words: list[str] = []
        self.stock = self.bind("NONE")
        self.expected: dict[int, Any] = {}

    def weights(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns parameters that differ from the network's by 5 % and give sane outputs."""
        rng = self.np.random.default_rng(seed)

        def changed(arrays: dict[str, Any]) -> dict[str, Any]:
            factors = {n: 1 + 0.05 * rng.standard_normal(a.shape).astype("float32") for n, a in arrays.items()}
            return {n: self.mx.nd.array(a.asnumpy() * factors[n]) for n, a in arrays.items()}

        return changed(self.net.arg_params), changed(self.net.aux_params)

    def bind(self, name: str, **variables: str) -> Any:
        """Returns an executor with the network's own weights."""
        with self.backend(name, **variables):
            executor = self.net.symbol.simple_bind(self.mx.cpu(), grad_req="null", **self.net.data_shapes)
        executor.copy_params_from(self.net.arg_params, self.net.aux_params)
        executor.arg_dict["data"][:] = self.data
        return executor

    def reference(self, seed: int) -> Any:
        """Returns MXNet's result with the weights of a seed."""
        if seed not in self.expected:
            self.stock.copy_params_from(*self.weights(seed))
            self.expected[seed] = self.stock.forward()[0].asnumpy()
        return self.expected[seed]

    def error(self, found: Any, seed: int) -> float:
        """Returns the relative error of a result with the weights of a seed."""
        expected = self.reference(seed)
        if not self.np.isfinite(found).all():
            return float("inf")
        return float(self.np.linalg.norm(found - expected) / self.np.linalg.norm(expected))

    def change(self, executor: Any, seeds: range, runs: int = 3) -> dict[str, Any]:
        """Gives an executor new weights again and again; returns the largest error and the times."""
        worst, first_s, engine_s = 0.0, [], []
        for seed in seeds:
            self.reference(seed)
            executor.copy_params_from(*self.weights(seed))
            self.mx.nd.waitall()
            start = time.perf_counter()
            found = executor.forward()[0].asnumpy()
            first_s.append(time.perf_counter() - start)
            engine_s.append(session_of(executor)._entry.seconds)
            for _ in range(runs):
                worst = max(worst, self.error(found, seed))
                found = executor.forward()[0].asnumpy()
            worst = max(worst, self.error(found, seed))
        report = session_of(executor).report
        return {
            "largest_error": worst,
            "engine": report.engine,
            "builds": report.builds,
            "refits": report.refits,
            "engine_s": round(float(self.np.median(engine_s)), 3),
            "first_forward_s": round(float(self.np.median(first_s)), 3),
        }

    def rebuilt(self) -> dict[str, Any]:
        """MXNET_TENSORRT_REFIT=never: each change builds."""
        executor = self.bind("TensorRT", MXNET_TENSORRT_REFIT="never")
        executor.forward()[0].wait_to_read()
        found = self.change(executor, range(1, 4))
        assert found["engine"].startswith("tensorrt"), found
        assert found["builds"] == 4, found
        return accept(found)

    def by_default(self) -> dict[str, Any]:
        """What a user gets who sets nothing: `auto`."""
        self.words.clear()
        executor = self.bind("TensorRT")
        executor.forward()[0].wait_to_read()
        found = accept(self.change(executor, range(11, 14)))
        assert found["engine"].startswith("tensorrt"), found
        assert found["builds"] + found["refits"] == 4, found
        return {**found, "reasons": sorted(set(self.words))}

    def refitted(self) -> dict[str, Any]:
        """Many changes of one engine that was built to take them."""
        self.words.clear()
        executor = self.bind("TensorRT", MXNET_TENSORRT_REFIT="always")
        executor.forward()[0].wait_to_read()
        found = accept(self.change(executor, range(21, 21 + self.changes)))
        assert found["builds"] + found["refits"] == self.changes + 1, found
        return {**found, "reasons": sorted(set(self.words))}

    def right(self) -> dict[str, Any]:
        """One run after each of many changes, alternating between few weights: each error counted."""
        executor = self.bind("TensorRT", MXNET_TENSORRT_REFIT="always")
        executor.forward()[0].wait_to_read()
        sets = {seed: self.weights(seed) for seed in (21, 22, 23, 24)}
        errors = []
        for i in range(self.more):
            seed = 21 + i % 4
            executor.copy_params_from(*sets[seed])
            errors.append(self.error(executor.forward()[0].asnumpy(), seed))
        wrong = sum(error > TOLERANCE for error in errors)
        details = {"changes": self.more, "wrong": wrong, "largest_error": max(errors)}
        assert not wrong, details
        return {**details, "refits": session_of(executor).report.refits}

    def speed(self) -> dict[str, Any]:
        """The forward of an engine that can be refitted, against one that cannot; interleaved."""
        executors = {mode: self.bind("TensorRT", MXNET_TENSORRT_REFIT=mode) for mode in ("never", "always")}
        times: dict[str, list[float]] = {mode: [] for mode in executors}
        for _ in range(20):
            for mode, executor in executors.items():
                for _ in range(20):
                    start = time.perf_counter()
                    executor.forward()[0].wait_to_read()
                    times[mode].append(time.perf_counter() - start)
        plain, refittable = (float(self.np.median(times[mode][40:])) * 1e3 for mode in ("never", "always"))
        sizes = {mode: session_of(executor).report.engine_bytes for mode, executor in executors.items()}
        is_plain = bool(session_of(executors["always"])._entry.program.no_refit)
        return {
            "plain_ms": round(plain, 4),
            "refittable_ms": "there is none" if is_plain else round(refittable, 4),
            "ratio": round(refittable / plain, 3),
            "plain_bytes": sizes["never"],
            "refittable_bytes": sizes["always"],
        }

    def shared(self) -> dict[str, Any]:
        """Two executors of one program, one serving on a thread; only the other one gets new weights."""
        programs.clear()
        first, second = (self.bind("TensorRT", MXNET_TENSORRT_REFIT="always") for _ in range(2))
        for executor in (first, second):
            executor.forward()[0].wait_to_read()
        builds = [session_of(executor).report.builds for executor in (first, second)]
        assert builds == [1, 0], builds
        self.stock.copy_params_from(self.net.arg_params, self.net.aux_params)
        old = self.stock.forward()[0].asnumpy()
        errors: list[float] = []
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                found = second.forward()[0].asnumpy()
                errors.append(float(self.np.linalg.norm(found - old) / self.np.linalg.norm(old)))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            found = self.change(first, range(31, 35))
        finally:
            stop.set()
            thread.join()
        details = {**found, "served": len(errors), "error_of_the_served": max(errors)}
        assert max(errors) <= TOLERANCE, details
        return accept(details)

    def shared_arrays(self) -> dict[str, Any]:
        """Two executors on the same arrays both see a change."""
        mx, net = self.mx, self.net
        args = {n: a.copy() for n, a in net.arg_params.items()}
        auxs = {n: a.copy() for n, a in net.aux_params.items()}
        args["data"] = self.data
        for name, shape in zip(net.symbol.list_arguments(), net.symbol.infer_shape(**net.data_shapes)[0]):
            args.setdefault(name, mx.nd.zeros(shape))
        with self.backend("TensorRT", MXNET_TENSORRT_REFIT="always"):
            both = [net.symbol.bind(mx.cpu(), args, grad_req="null", aux_states=auxs) for _ in range(2)]
        worst = 0.0
        for seed in range(41, 44):
            for arrays, values in zip((args, auxs), self.weights(seed)):
                for name, value in values.items():
                    arrays[name][:] = value
            for executor in both:
                worst = max(worst, self.error(executor.forward()[0].asnumpy(), seed))
        reports = [session_of(executor).report for executor in both]
        counts = {"builds": sum(r.builds for r in reports), "refits": sum(r.refits for r in reports)}
        return accept({"largest_error": worst, **counts})

    def float16(self) -> dict[str, Any]:
        """The rewritten model is refitted too."""
        executor = self.bind("TensorRT", MXNET_TENSORRT_REFIT="always", MXNET_TENSORRT_PRECISION="fp16")
        executor.forward()[0].wait_to_read()
        self.words.clear()
        found = accept(self.change(executor, range(51, 54)), TOLERANCE_FP16)
        return {**found, "reasons": sorted(set(self.words))}

    def targets(self) -> dict[str, Any]:
        """With which targets the library can build an engine that takes new weights, and what it says otherwise."""
        executor = self.bind("TensorRT", MXNET_TENSORRT_REFIT="never")
        engine: Any = session_of(executor)._engines[0]
        library = engine._library
        models: list[bytes] = []
        build = library.build

        def keep(model: bytes, *rest: Any, **named: Any) -> Any:
            models.append(model)
            return build(model, *rest, **named)

        library.build = keep
        try:
            programs.clear()
            executor.forward()[0].wait_to_read()
        finally:
            library.build = build
        found: dict[str, Any] = {}
        for target in ("default", "CURRENT"):
            for flags in (("REFIT",), ("REFIT", "STRIP_PLAN")):
                mark, start = library.mark(), time.perf_counter()
                try:
                    with engine._driver.on_device(0):
                        plan = refittable_plan(library, models[0], target, flags)
                except Exception as error:  # noqa: BLE001 - what a target cannot do is what is asked here
                    plan, words = None, f"{type(error).__name__}: {error}"
                else:
                    words = library.words(mark)
                seconds = time.perf_counter() - start
                found[f"{target} {'+'.join(flags)}"] = words[:200] if plan is None else f"built in {seconds:.2f} s"
        return found


def refittable_plan(library: Any, model: bytes, target: str, flags: tuple[str, ...]) -> Any:
    """Returns what the library builds of a model with builder flags, by name; None where it refuses."""
    trt = library.module()
    builder = trt.Builder(library.logger)
    network = builder.create_network(library.strongly_typed())
    parser = trt.OnnxParser(network, library.logger)
    assert parser.parse(model)
    config = builder.create_builder_config()
    if target == "CURRENT":
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    return builder.build_serialized_network(network, config)


class Reasons(logging.Handler):
    """Keeps why engines were built again."""

    def __init__(self, words: list[str]) -> None:
        super().__init__(logging.INFO)
        self._words = words

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one line."""
        text = record.getMessage()
        if "built again because" in text:
            self._words.append(text.partition("built again because ")[2][:300])


def session_of(executor: Any) -> Any:
    """Returns the session of an executor that is one TensorRT node."""
    (session,) = executor.tensorrt.sessions
    return session


def accept(details: dict[str, Any], tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Returns the details, or raises where the error is too large."""
    assert details["largest_error"] <= tolerance, details
    return details


def main() -> int:
    """Runs the checks and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="resnet50_v2")
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--more", type=int, default=40)
    arguments = parser.parse_args()
    checks = Checks(arguments.out / "refit.json", {**bench_machine.describe(), "model": arguments.model})
    log = logging.getLogger("mxnet_trt_property")
    log.setLevel(logging.INFO)
    log.addHandler(logging.FileHandler(arguments.out / "refit.log", mode="w"))
    refits = Refits(arguments.model, arguments.changes, arguments.more)
    log.addHandler(Reasons(refits.words))

    def run(name: str, check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        programs.clear()  # an engine of the check before would be taken as it is
        return checks.run(name, check)

    built = run("each change builds (never)", refits.rebuilt)
    run("what a user gets (auto)", refits.by_default)
    trt_refit.TRUST_OVERLAPPING_KERNELS = True
    run("targets of refittable engines", refits.targets)
    refitted = run(f"{arguments.changes} changes (always)", refits.refitted)
    run("refit is right, change after change", refits.right)
    run("speed of refittable against plain", refits.speed)
    run("one of two that share gets new weights", refits.shared)
    run("two executors on the same arrays", refits.shared_arrays)
    run("float16", refits.float16)
    if refitted.get("refits") and "engine_s" in built:
        saved = built["first_forward_s"] / refitted["first_forward_s"]
        print(f"first forward after a change: {built['first_forward_s']} s built, {refitted['first_forward_s']} s "
              f"refitted ({saved:.1f} x)")  # fmt: skip
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
