"""Shows on a GPU that the profile of a network adds up.

usage: python ci/gpu/verify_profile.py OUTPUT_FOLDER

Profiles resnet18_v2 in fp32 and fp16 with `mxnet-trt profile`, on the best TensorRT that this machine has, and writes
profile-PRECISION.json, trace-PRECISION.json and profile.json into the folder. What must hold: a TensorRT engine ran
all nodes; it tells of layers, and for most of their time of the MXNet nodes in them; the sum of the layers is between
half of the engine's own time (its run without the copies) and four times that; copies take time and less than the
run; forward takes as long as the run or longer, and at most a millisecond more. Exit status 1 if any of that fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NETWORK = "resnet18_v2"
RUNS = "30"


def main() -> int:
    """Runs the checks and returns the exit status."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    from mxnet_trt_property.cli.demo import export_gluon

    rows, failed = [], False
    with tempfile.TemporaryDirectory() as place:
        prefix = str(Path(place) / NETWORK)
        export_gluon(NETWORK, prefix)
        for precision in ("fp32", "fp16"):
            row = check(prefix, precision, folder)
            rows.append(row)
            failed = failed or not all(row["checks"].values())
    (folder / "profile.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("FAILED" if failed else "passed")
    return int(failed)


def check(prefix: str, precision: str, folder: Path) -> dict[str, Any]:
    """Profiles the network in one precision and returns what holds."""
    record_file, trace_file = folder / f"profile-{precision}.json", folder / f"trace-{precision}.json"
    command = [sys.executable, "-m", "mxnet_trt_property", "profile", prefix, "--precision", precision, "--runs", RUNS]
    done = subprocess.run(
        [*command, "--json", str(record_file), "--trace", str(trace_file)], capture_output=True, text=True, check=False
    )
    print(f"== {precision}\n{done.stdout}{done.stderr}", flush=True)
    if done.returncode != 0:
        return {"precision": precision, "checks": {"the command": False}, "words": done.stderr}
    record = json.loads(record_file.read_text())
    (node,) = record["nodes"]
    engine_ms = node["run_ms"] - node["copy_in_ms"] - node["copy_out_ms"]
    named = sum(layer["milliseconds"] for layer in node["layers"] if layer["nodes"])
    events = json.loads(trace_file.read_text())["traceEvents"]
    row: dict[str, Any] = {
        "precision": precision, "engine": node["engine"], "forward_ms": record["forward_ms"], "run_ms": node["run_ms"],
        "engine_ms": engine_ms, "layers_ms": node["layers_ms"], "layers": len(node["layers"]),
        "named_share": named / node["layers_ms"] if node["layers_ms"] else 0.0,
    }  # fmt: skip
    row["checks"] = {
        "a TensorRT engine ran it": node["engine"].startswith("tensorrt"),
        "all nodes were taken": record["operators_left"] == 0,
        "layers are told": len(node["layers"]) > 5,
        "most of their time has names": row["named_share"] > 0.5,
        "layers are within reason": 0.5 * engine_ms <= node["layers_ms"] <= 4 * engine_ms,
        "copies take time": 0 < node["copy_in_ms"] < node["run_ms"] and 0 < node["copy_out_ms"] < node["run_ms"],
        "forward holds the run": 0.9 * node["run_ms"] <= record["forward_ms"] <= node["run_ms"] + 1.0,
        "the timeline has the layers": sum(e["ph"] == "X" for e in events) >= len(node["layers"]),
    }
    print(json.dumps(row, indent=1), flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
