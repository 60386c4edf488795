"""Every accepted row over a range of its first axis: one model for all sizes computes what each size's own one does."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import onnxruntime
import pytest

from mxnet_trt_property import ranges, settings
from mxnet_trt_property.convert import ConvertedModel, convert, variable_roles
from mxnet_trt_property.errors import ConversionError
from mxnet_trt_property.generalize import Template, generalize
from mxnet_trt_property.infer import read_symbol
from tests.harness import DATA_NAMES, Row, all_arrays, all_rows, mx, semantics

pytestmark = pytest.mark.slow

LARGEST = 5


def run(model: bytes, feed: dict[str, Any], outputs: int) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=["Pad_Fusion"]
    )
    found: list[np.ndarray] = session.run([f"output{i}" for i in range(outputs)], feed)
    return found


class Ranged:
    """A row at several sizes."""

    def __init__(self, row: Row) -> None:
        self.row = row
        symbol = row.build()
        self.arrays = all_arrays(symbol, row.shapes, row.dtypes, row.fills)
        self.graph = read_symbol(symbol)
        self.roles = variable_roles(self.graph, lambda node: node.name not in DATA_NAMES)
        names = set(symbol.list_arguments())
        shapes = {k: v.shape for k, v in self.arrays.items() if k in names}
        dtypes = {k: v.dtype for k, v in self.arrays.items()}
        config = settings.read({"max_batch_size": str(LARGEST)})
        self.flexible = ranges.find(symbol, shapes, dtypes, config, set(row.shapes))
        self.template: Optional[Template] = None
        if self.flexible is not None:
            models = [convert(self.graph, tensors, self.roles) for tensors in self.flexible.tensors]
            self.template = generalize(models, self.flexible.points, self.flexible.ranges)

    def assert_same(self, size: int) -> None:
        assert self.flexible is not None
        assert self.template is not None
        exact = convert(self.graph, self.flexible.at((size,)), self.roles)
        assert self.template.misfit(exact, (size,)) is None
        feed = {port.name: self.values(port) for port in exact.inputs}
        weights = {port.node: self.arrays[self.graph.nodes[port.node].name] for port in exact.weights}
        try:
            expected = run(exact.serialize(weights), feed, exact.outputs)
        except Exception:  # positions that were drawn for another size, say: nothing to compare with
            return
        model: ConvertedModel = self.template.model
        for found, right in zip(run(model.serialize(weights), feed, exact.outputs), expected):
            assert found.shape == right.shape
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)

    def values(self, port: Any) -> np.ndarray:
        """Returns the row's own values, as many as the input has at this size."""
        return np.resize(self.arrays[self.graph.nodes[port.node].name], port.shape)


def test_rows_at_other_sizes() -> None:
    general, refused = 0, {}
    for row in all_rows("ACCEPTED"):
        symbol = row.build()
        with semantics(symbol):
            try:
                ranged = Ranged(row)
            except ConversionError as error:
                refused[str(row)] = str(error)
                continue
            if ranged.template is None:
                continue  # no data, as in arange
            general += 1
            for size in (1, 2, 3, LARGEST):
                ranged.assert_same(size)
    mx.nd.waitall()
    assert all(refused.values())
    assert general / (general + len(refused)) > 0.9, refused
