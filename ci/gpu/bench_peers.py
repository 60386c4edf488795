"""Measures this package beside ONNX Runtime's TensorRT-RTX provider and PyTorch, in one process and interleaved.

usage: python ci/gpu/bench_peers.py --out DIR [--models NAME,...] [--batch 1,8,32] [--seconds S] [--rounds N]
                                    [--budget S] [--provider FILE] [--skip PEER,...]

For each network and batch size, fp32, milliseconds of one inference with data in host memory unless said otherwise:

  compile          the bound call of mxnet_trt_property.compile
  blog loop        the plugin: simple_bind, forward(data=x), wait
  limit            the captured CUDA graph of our engine with its copies
  ort run          InferenceSession.run with the TensorRT-RTX provider, on the ONNX bytes that `compile` made
  ort io-binding   the same with io-binding: the input is copied to the GPU once, outside the timed call
  torch ...        at batch 1 only, the same network with the same weights (torch_graph.py): eager and
                   torch.compile(mode="reduce-overhead"), with host input and output, and with both on the GPU
                   ("device"). cuDNN and cuBLAS compute in TF32, as TensorRT does.

All results are compared with MXNet on the CPU. A peer that cannot be set up is left out and the reason printed, and
so is one whose result is wrong, before the timing or after it: its time is of something else. The
provider needs libtensorrt_rtx.so.1, libtensorrt_onnxparser_rtx.so.1 and libcudart.so.12 on LD_LIBRARY_PATH; --provider
is found there too. --skip: ort, torch, torch.compile.

Writes DIR/peers.json after each row. Exit status 1 if a result is wrong. A row is begun only while --budget seconds of
the whole run are not spent.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mxnet_trt_property  # noqa: E402, F401 - its shims come before mxnet
from mxnet_trt_property.cli import bench, bench_machine, bench_variants, demo  # noqa: E402
from mxnet_trt_property.cli.bench_variants import Case, Variant  # noqa: E402

PROVIDER = "NvTensorRTRTXExecutionProvider"
PROVIDER_FILE = "libonnxruntime_providers_nv_tensorrt_rtx.so"
PRELOADS = ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1", "libcudart.so.12")
OURS = ("blog loop", "compile", "limit")
WRONG_RUNS = 20  # an engine whose kernels overlap wrongly is right now and then


def main() -> int:
    """Measures and prints; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default="resnet18_v2,resnet50_v2")
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=0.1, help="how long a variant is timed in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budget", type=float, default=150, help="seconds for the whole run")
    parser.add_argument("--provider", type=Path)
    parser.add_argument("--skip", default="")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.budget
    skipped = {part.strip() for part in arguments.skip.split(",")}
    record: dict[str, Any] = {"machine": bench_machine.describe(), "rounds": arguments.rounds, "peers": {}, "rows": []}
    rows: list[bench.Row] = []
    with tempfile.TemporaryDirectory() as folder:
        loaded = {name: _network(name, Path(folder)) for name in arguments.models.split(",")}
        # Batch 1 of every network first: where the budget ends early, those rows are the ones to have.
        for batch in (int(n) for n in arguments.batch.split(",")):
            for name, network in loaded.items():
                if time.monotonic() > deadline:
                    print(f"{name}, batch {batch}: left out, the budget of {arguments.budget:.0f} s is spent")
                    continue
                rows.append(measure(name, batch, network, arguments, skipped, record["peers"]))
                print(text(rows[-1]), flush=True)
                record["rows"] = [asdict(row) for row in rows]
                (arguments.out / "peers.json").write_text(json.dumps(record, indent=1) + "\n")
    print(bench_machine.summary(record["machine"]))
    print(json.dumps(record["peers"]))
    return 1 if not rows or any(row.wrong for row in rows) else 0


def _network(name: str, folder: Path) -> tuple[Any, Any, Any]:
    import mxnet as mx

    demo.export_gluon(name, str(folder / name))
    loaded: tuple[Any, Any, Any] = mx.model.load_checkpoint(str(folder / name), 0)
    return loaded


def measure(
    name: str,
    batch: int,
    network: tuple[Any, Any, Any],
    arguments: argparse.Namespace,
    skipped: set[str],
    versions: dict[str, str],
) -> bench.Row:
    """Returns the row of one network at one batch size."""
    row = bench.Row(name, batch, "fp32", "cpu")
    case = Case(*network, {"data": (batch, 3, 224, 224)}, "fp32", "cpu")
    inputs = [bench_variants.random_inputs(case.shapes, seed) for seed in (11, 12)]
    expected = bench_variants.reference(case, inputs)
    with bench_variants.prepare(case, OURS) as made:
        row.unavailable.update(made.unavailable)
        row.engine = ", ".join(dict.fromkeys(made.engines.values()))
        peers: list[tuple[str, Callable[[], list[Variant]]]] = []
        if "ort" not in skipped:
            peers.append(("ort", lambda: _onnxruntime(case, arguments.provider, versions)))
        if "torch" not in skipped and batch == 1:
            peers.append(("torch", lambda: _torch(case, "torch.compile" not in skipped, row, versions)))
        for peer, make in peers:
            try:
                variants = make()
            except Exception as error:  # noqa: BLE001 - a peer that is missing must not stop the others
                row.unavailable[peer] = f"{type(error).__name__}: {str(error)[:500]}"
                continue
            made.variants += variants
            made.engines.update({v.name: "tensorrt_rtx" for v in variants if v.outputs is not None})
        _drop_wrong_peers(row, made, inputs[0], expected[0])
        if bench.compare(row, made, inputs[0], expected[0]):
            rounds = bench.interleave(made.variants, arguments.rounds, arguments.seconds)
            for wrong in _drop_wrong_peers(row, made, inputs[1], expected[1]):
                del rounds[wrong]
            if bench.compare(row, made, inputs[1], expected[1]):
                bench.summarize(row, rounds)
    return row


def _drop_wrong_peers(row: bench.Row, made: bench_variants.Prepared, inputs: Any, expected: Any) -> list[str]:
    """Takes the variants of others out whose results are wrong, says so in the row, and returns their names."""
    dropped = []
    for variant in list(made.variants):
        if variant.name in OURS or variant.outputs is None:
            continue
        variant.feed(inputs)
        errors = []
        for _ in range(WRONG_RUNS):
            variant.call()
            errors += [demo.relative_error(f, e) for f, e in zip(variant.outputs(), expected)]
        if max(errors) > bench.tolerance("fp32", "tensorrt_rtx"):
            wrong = sum(error > bench.tolerance("fp32", "tensorrt_rtx") for error in errors)
            row.unavailable[variant.name] = f"{wrong} of {len(errors)} results are wrong, error up to {max(errors):.1e}"
            made.variants.remove(variant)
            dropped.append(variant.name)
    return dropped


def _onnxruntime(case: Case, provider: Any, versions: dict[str, str]) -> list[Variant]:
    """Returns ONNX Runtime with the TensorRT-RTX provider, on the model that `compile` makes."""
    import onnxruntime

    from mxnet_trt_property import compiled

    devices = [d for d in _provider_devices(onnxruntime, provider) if d.ep_name == PROVIDER]
    if not devices:
        raise RuntimeError(f"the provider offers no device; found {onnxruntime.get_ep_devices()}")
    # Built on ONNX Runtime, since only the ONNX bytes are wanted here.
    model = compiled.compile(*_parts(case), engine="onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_provider_for_devices([devices[0]], {})
    session = onnxruntime.InferenceSession(model.onnx, options)
    versions["onnxruntime"] = f"{onnxruntime.__version__}, providers {session.get_providers()}"
    model.close()
    name = session.get_inputs()[0].name
    data = {name: bench_variants.random_inputs(case.shapes, 1)["data"]}
    found: list[Any] = [None]
    binding = session.io_binding()

    def run() -> None:
        found[0] = session.run(None, data)

    def feed(inputs: Mapping[str, Any]) -> None:
        data[name][:] = inputs["data"]

    def bind(inputs: Mapping[str, Any]) -> None:
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        binding.bind_cpu_input(name, inputs["data"])
        for output in session.get_outputs():
            binding.bind_output(output.name)

    bind({"data": data[name]})
    run()
    session.run_with_iobinding(binding)
    return [
        Variant("ort run", run, feed, lambda: list(found[0])),
        Variant("ort io-binding", lambda: session.run_with_iobinding(binding), bind, binding.copy_outputs_to_cpu),
    ]


def _parts(case: Case) -> tuple[Any, Any, Any, Any]:
    return case.symbol, case.arg_params, case.aux_params, case.shapes


def _provider_devices(onnxruntime: Any, given: Any) -> list[Any]:
    """Loads the provider once in the process and returns the devices that ONNX Runtime knows."""
    if not any(d.ep_name == PROVIDER for d in onnxruntime.get_ep_devices()):
        folders = [Path(part) for part in os.environ.get("LD_LIBRARY_PATH", "").split(":") if part]
        files = [given] if given else [f / PROVIDER_FILE for f in folders if (f / PROVIDER_FILE).is_file()]
        if not files:
            raise RuntimeError(f"no {PROVIDER_FILE} on LD_LIBRARY_PATH")
        for library in PRELOADS:
            ctypes.CDLL(library, mode=os.RTLD_GLOBAL | os.RTLD_NOW)
        onnxruntime.register_execution_provider_library(PROVIDER, str(files[0]))
    return list(onnxruntime.get_ep_devices())


def _torch(case: Case, with_compile: bool, row: bench.Row, versions: dict[str, str]) -> list[Variant]:
    """Returns PyTorch's ways of running the same network with the same weights."""
    import torch
    from torch_graph import MXNetGraph

    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU")
    versions["torch"] = f"{torch.__version__}, cuDNN TF32 on"
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True
    network = MXNetGraph(case.symbol, {**case.arg_params, **case.aux_params}).cuda().eval()
    host = torch.from_numpy(bench_variants.random_inputs(case.shapes, 1)["data"].copy()).pin_memory()
    device = host.cuda()
    found: dict[str, Any] = {}

    def feed(inputs: Mapping[str, Any]) -> None:
        host.copy_(torch.from_numpy(np.asarray(inputs["data"])))
        device.copy_(host)

    def variants(label: str, forward: Callable[[Any], Any]) -> list[Variant]:
        def with_copies() -> None:
            with torch.no_grad():
                found[label] = forward(host.cuda(non_blocking=True)).cpu()

        def on_device() -> None:
            with torch.no_grad():
                found[label] = forward(device)
            torch.cuda.synchronize()

        for call in (with_copies, on_device):
            for _ in range(4):  # reduce-overhead captures at the second or third call
                call()

        def outputs() -> list[Any]:
            return [found[label].cpu().numpy()]

        return [Variant(label, with_copies, feed, outputs), Variant(f"{label} device", on_device, feed, outputs)]

    made = variants("torch eager", network)
    if with_compile:
        try:
            made += variants("torch.compile", torch.compile(network, mode="reduce-overhead"))
        except Exception as error:  # noqa: BLE001 - it needs a C compiler and Triton, which may be missing
            row.unavailable["torch.compile"] = f"{type(error).__name__}: {str(error)[:500]}"
    return made


def text(row: bench.Row) -> str:
    """Returns a row as lines: each variant with its time, and how many times our compiled call's it is."""
    head = f"{row.model}, batch {row.batch}, {row.engine}"
    if row.wrong:
        return f"{head}: WRONG RESULT: {row.wrong}"
    base = row.milliseconds.get("compile")
    lines = [head]
    for name, milliseconds in row.milliseconds.items():
        ratio = f"{milliseconds / base:6.2f} x compile" if base else ""
        error = f"error {row.relative_error[name]:.1e}" if name in row.relative_error else ""
        lines.append(f"  {name:<22} {milliseconds:9.4f} ms  {ratio}  spread {row.spread[name]:4.0%}  {error}".rstrip())
    return "\n".join([*lines, *(f"  no {name}: {reason}" for name, reason in row.unavailable.items())])


if __name__ == "__main__":
    sys.exit(main())
