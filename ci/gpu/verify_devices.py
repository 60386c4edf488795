"""Verifies two GPUs in one process: the CPU wheel of MXNet, an executor on each, both at once.

usage: python ci/gpu/verify_devices.py --out DIR [--model resnet50_v2] [--seconds 2]

Results are compared with MXNet's on the CPU (2e-3: TF32), memory with what the driver says of each device, and the
throughput of two threads on two devices with that of one thread on each alone: at least 1.7 times is asked for.
DIR/devices.json has all. Exit status 1 if a check failed or there is one GPU only.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

# MXNet runs one operator at a time on the CPU unless it is told otherwise, before it is imported.
for _name in ("MXNET_CPU_WORKER_NTHREADS", "MXNET_CPU_TEMP_COPY", "MXNET_CPU_PARALLEL_RAND_COPY"):
    os.environ.setdefault(_name, "4")

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mxnet_trt_property  # noqa: E402 - its shims come before mxnet
from ci.gpu.checks import Checks  # noqa: E402
from mxnet_trt_property import cuda_driver, programs  # noqa: E402
from mxnet_trt_property.cli import bench_machine  # noqa: E402

TOLERANCE = 2e-3
FASTER = 1.7
# Engine, context and buffers of any of the networks are larger; what the driver takes for itself beside them is not
# looked at.
LEAST_BYTES = 16 << 20
INPUTS = 4


class Devices:
    """The checks, on one network."""

    def __init__(self, model: str, seconds: float) -> None:
        import mxnet as mx
        import numpy as np

        from tests.models import zoo
        from tests.symbols import backend

        self.mx, self.np, self.backend = mx, np, backend
        self.net = zoo.vision(model, size=224)
        self.seconds = seconds
        shape = self.net.data_shapes["data"]
        self.inputs = [mx.nd.array(np.random.default_rng(i).standard_normal(shape)) for i in range(INPUTS)]
        stock = self.bind("NONE")
        self.expected = [stock.forward(data=x)[0].asnumpy() for x in self.inputs]
        self.executors: list[Any] = []

    def bind(self, name: str, **variables: str) -> Any:
        """Returns an executor with the network's weights."""
        with self.backend(name, **variables):
            executor = self.net.symbol.simple_bind(self.mx.cpu(), grad_req="null", **self.net.data_shapes)
        executor.copy_params_from(self.net.arg_params, self.net.aux_params)
        return executor

    def error(self, found: Any, i: int) -> float:
        """Returns the relative error of a result for input i."""
        expected = self.expected[i]
        if not self.np.isfinite(found).all():
            return float("inf")
        return float(self.np.linalg.norm(found - expected) / self.np.linalg.norm(expected))

    def memory(self) -> list[int]:
        """Returns the used bytes of each device."""
        driver = cuda_driver.default()
        used = []
        for device in (0, 1):
            with driver.on_device(device):
                free, total = driver.mem_get_info()
            used.append(total - free)
        return used

    def placed(self) -> dict[str, Any]:
        """The engine of MXNET_TENSORRT_DEVICE=i lies on device i, and nothing of it on the other."""
        found: dict[str, Any] = {}
        for device in (1, 0):
            before = self.memory()
            executor = self.bind("TensorRT", MXNET_TENSORRT_DEVICE=str(device))
            self.executors.insert(0, executor)
            worst = max(self.error(executor.forward(data=x)[0].asnumpy(), i) for i, x in enumerate(self.inputs))
            engine = executor.tensorrt.sessions[0].report.engine
            grown = [after - old for after, old in zip(self.memory(), before)]
            found[f"device {device}"] = {"grown_mb": [round(g / 1e6, 1) for g in grown], "error": worst}
            assert engine.startswith("tensorrt"), engine
            assert worst <= TOLERANCE, found
            assert grown[device] > LEAST_BYTES, found
            assert grown[1 - device] < LEAST_BYTES, found
        return found

    def interleaved(self) -> dict[str, Any]:
        """One thread takes turns between the devices."""
        worst = 0.0
        for k in range(100):
            i, device = k % INPUTS, k % 2
            worst = max(worst, self.error(self.executors[device].forward(data=self.inputs[i])[0].asnumpy(), i))
        assert worst <= TOLERANCE, worst
        return {"forwards": 100, "largest_error": worst}

    def at_once(self) -> dict[str, Any]:
        """A thread on each device, every result looked at."""
        worst, counts = [0.0, 0.0], [0, 0]
        stop = time.perf_counter() + self.seconds

        def work(device: int) -> None:
            while time.perf_counter() < stop:
                i = counts[device] % INPUTS
                found = self.executors[device].forward(data=self.inputs[i])[0].asnumpy()
                worst[device] = max(worst[device], self.error(found, i))
                counts[device] += 1

        together([lambda: work(0), lambda: work(1)])
        assert max(worst) <= TOLERANCE, worst
        assert min(counts) > 0, counts
        return {"forwards": counts, "largest_error": max(worst)}

    def throughput(self) -> dict[str, Any]:
        """Forwards a second of both threads together against each alone, by turns."""
        rounds = 3
        alone: list[list[float]] = [[], []]
        both = []
        for executor in self.executors:
            executor.arg_dict["data"][:] = self.inputs[0]
        for _ in range(rounds):
            for device in (0, 1):
                alone[device].append(sum(self.rates([device])))
            both.append(sum(self.rates([0, 1])))
        median = self.np.median
        single = [float(median(a)) for a in alone]
        ratio = float(median(both)) / (sum(single) / 2)
        details = {
            "alone_per_s": [round(s) for s in single],
            "both_per_s": round(float(median(both))),
            "ratio": round(ratio, 2),
        }
        assert ratio > FASTER, details
        return details

    def rates(self, devices: list[int]) -> list[float]:
        """Returns the forwards a second of a thread on each device, at the same time."""
        counts = dict.fromkeys(devices, 0)
        seconds = self.seconds / 2
        stop = time.perf_counter() + seconds

        def work(device: int) -> None:
            forward = self.executors[device].forward
            while time.perf_counter() < stop:
                forward()[0].wait_to_read()
                counts[device] += 1

        together([lambda device=device: work(device) for device in devices])
        return [counts[device] / seconds for device in devices]

    def weights(self) -> dict[str, Any]:
        """New weights on one device; the other one keeps its own."""
        name = next(n for n in reversed(self.net.symbol.list_arguments()) if n.endswith("weight"))
        self.executors[1].arg_dict[name][:] *= 0.5
        changed = self.executors[1].forward(data=self.inputs[0])[0].asnumpy()
        kept = self.error(self.executors[0].forward(data=self.inputs[0])[0].asnumpy(), 0)
        moved = self.error(changed, 0)
        self.executors[1].arg_dict[name][:] *= 2
        back = self.error(self.executors[1].forward(data=self.inputs[0])[0].asnumpy(), 0)
        details = {"weight": name, "error_of_the_other": kept, "moved_by": moved, "error_when_back": back}
        assert max(kept, back) <= TOLERANCE < moved, details
        return details

    def compiled(self) -> dict[str, Any]:
        """mxnet_trt_property.compile on the second device."""
        with self.backend(None, MXNET_TENSORRT_DEVICE="1"):
            net = self.net
            model = mxnet_trt_property.compile(net.symbol, net.arg_params, net.aux_params, net.data_shapes)
        worst = max(self.error(model(x.asnumpy()), i) for i, x in enumerate(self.inputs))
        model.close()
        assert worst <= TOLERANCE, worst
        return {"largest_error": worst}

    def freed(self) -> dict[str, Any]:
        """Deleting executors and programs gives the memory of both devices back."""
        before = self.memory()
        self.executors.clear()
        gc.collect()
        programs.clear()
        gc.collect()
        lost = [old - after for after, old in zip(self.memory(), before)]
        details = {"freed_mb": [round(b / 1e6, 1) for b in lost]}
        assert min(lost) > LEAST_BYTES, details
        return details


def together(functions: list[Any]) -> None:
    """Runs functions on a thread each; raises what one of them raised."""
    errors: list[BaseException] = []

    def guarded(function: Any) -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def main() -> int:
    """Runs the checks and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="resnet50_v2")
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    count = cuda_driver.default().device_count()
    checks = Checks(
        arguments.out / "devices.json", {**bench_machine.describe(), "model": arguments.model, "gpus": count}
    )
    if count < 2:
        print(f"FAILED: {count} GPU(s); two are needed")
        return 1
    devices = Devices(arguments.model, arguments.seconds)
    checks.run("each engine on its device", devices.placed)
    checks.run("one thread, both devices by turns", devices.interleaved)
    checks.run("a thread on each device at once", devices.at_once)
    checks.run(f"throughput of both, more than {FASTER} times", devices.throughput)
    checks.run("new weights on one device", devices.weights)
    checks.run("compile on the second device", devices.compiled)
    checks.run("memory of both is given back", devices.freed)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
