"""Whole networks beyond classifiers: how much of each is taken, MXNet's results, and engines that can be built."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from mxnet_trt_property.engines.trt import build_ahead_of_time
from tests.models import sequences, vision
from tests.models.build import Network
from tests.models.test_models import TOLERANCE, run
from tests.symbols import relative_error, taken_nodes

BUILDERS: dict[str, Callable[[], Network]] = {
    build.__name__: build
    for build in (
        vision.ssd,
        vision.ssd_multibox,
        vision.yolo,
        vision.fcn,
        vision.deeplab,
        vision.pose,
        vision.dcgan,
        vision.video,
        sequences.crnn,
        sequences.bert,
        sequences.bert_interleaved,
        sequences.attention_step,
        sequences.language_model,
        sequences.forecaster,
    )
}

# What stays with MXNet costs copies at every border.
LEAST_TAKEN = 0.95
MOST_SUBGRAPHS = 2


@pytest.mark.parametrize("name", BUILDERS)
def test_application(name: str, built_models: list[bytes]) -> None:
    network = BUILDERS[name]()
    data = network.data()
    _, expected = run(network, "NONE", data)
    executor, found = run(network, "TensorRT", data)
    assert len(found) == len(expected)
    for ours, stock in zip(found, expected):
        assert np.isfinite(stock.asnumpy()).all()
        assert relative_error(ours, stock) <= TOLERANCE
    nodes = json.loads(executor.get_optimized_symbol().tojson())["nodes"]
    left = [node["op"] for node in nodes if node["op"] not in ("null", "_TensorRT")]
    taken = len(taken_nodes(executor))
    assert taken >= LEAST_TAKEN * (taken + len(left)), left
    assert len(built_models) <= MOST_SUBGRAPHS, left
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this machine")
    for model in built_models:
        assert len(build_ahead_of_time(model)) > 1000
