"""The times of a model's nodes by ONNX Runtime's own profiler, which writes a file in the trace event format."""

from __future__ import annotations

import collections
import json
import tempfile
from pathlib import Path
from typing import Any

from mxnet_trt_property.engines.layers import Layer, medians

_SUFFIX = "_kernel_time"


def node_times(runtime: Any, model: bytes, options: Any, arguments: dict[str, Any], feed: Any, runs: int
               ) -> tuple[Layer, ...]:  # fmt: skip
    """Runs the serialized ONNX `model` in a session that measures, and returns its nodes' times.

    Args:
        runtime: The module onnxruntime.
        model: The model.
        options: SessionOptions of the session whose nodes are asked for; changed here.
        arguments: Further arguments of InferenceSession.
        feed: The inputs by name.
        runs: How often it is run, after one run to warm up.
    """
    with tempfile.TemporaryDirectory(prefix="mxnet-trt-profile-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "nodes")
        session = runtime.InferenceSession(model, options, **arguments)
        for _ in range(runs + 1):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_SUFFIX)]
    # Nodes that ONNX Runtime adds may have one name; their numbers differ.
    numbers: dict[str, set[str]] = collections.defaultdict(set)
    for event in nodes:
        numbers[event["name"]].add(str(event["args"].get("node_index", "")))
    times: dict[str, list[float]] = collections.defaultdict(list)
    known: dict[str, tuple[str, str]] = {}
    for event in nodes:
        name = event["name"][: -len(_SUFFIX)]
        key = f"{name} #{event['args']['node_index']}" if len(numbers[event["name"]]) > 1 else name
        times[key].append(event["dur"] / 1e3)
        known[key] = (event["args"].get("op_name", ""), name)
    # The first run is the slowest: memory is allocated, and weights are laid out.
    return medians({key: found[1:] or found for key, found in times.items()}, known)
