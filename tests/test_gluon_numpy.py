"""Gluon blocks with NumPy's semantics (`npx.set_np`): whole networks are taken, and results stay mx.np arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mxnet_trt_property.infer import read_symbol
from tests.symbols import backend, mx

nn = mx.gluon.nn


@pytest.fixture(autouse=True)
def _numpy_semantics() -> Iterator[None]:
    """Turns on for this thread what `npx.set_np` turns on, and the TensorRT backend's engine without a GPU."""
    variables = {
        "MXNET_TENSORRT_ENGINE": "onnxruntime",
        "MXNET_TENSORRT_ON_ERROR": "raise",
        "MXNET_TENSORRT_MIN_SUBGRAPH_SIZE": "1",
    }
    with mx.util.np_shape(True), mx.util.np_array(True), backend(None, **variables):
        yield


class Gate(nn.HybridBlock):  # type: ignore[misc]  # mxnet has no types
    """Arithmetic and a choice."""

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Returns the gated input."""
        return F.np.where(x > 0.5, x / 2, 1 - x) * F.np.mean(x, axis=1, keepdims=True)


class Turn(nn.HybridBlock):  # type: ignore[misc]
    """Slices, a join and a change of axes."""

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Returns the input turned by one channel, channels last."""
        return F.np.concatenate([x[:, 1:], x[:, :1]], axis=1).transpose((0, 2, 3, 1)).reshape((1, -1, 4))


class Attention(nn.HybridBlock):  # type: ignore[misc]
    """The product of an array with itself."""

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Returns the weighted values."""
        weights = F.npx.softmax(F.np.matmul(x, F.np.swapaxes(x, 1, 2)), axis=-1)
        return F.np.einsum("bij,bjk->bik", weights, x)


class Total(nn.HybridBlock):  # type: ignore[misc]
    """A reduction to a 0-d array."""

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Returns the sum."""
        return F.np.sum(x)


def _image() -> list[Any]:
    return [
        nn.Conv2D(4, 3, padding=1),
        nn.BatchNorm(),
        nn.Activation("relu"),
        nn.MaxPool2D(),
        nn.AvgPool2D(),
        nn.Conv2DTranspose(4, 2),
        Gate(),
        nn.GlobalAvgPool2D(),
        nn.Dense(6, activation="tanh"),
        nn.LayerNorm(),
        nn.Dropout(0.5),
        nn.GELU(),
        nn.Swish(),
    ]


def _sequence() -> list[Any]:
    return [nn.Embedding(10, 4), nn.Dense(5, flatten=False), nn.LeakyReLU(0.1), Attention(), nn.PReLU(), Total()]


@pytest.mark.parametrize(
    ("layers", "shape", "dtype"),
    [
        (_image, (2, 3, 16, 16), "float32"),
        (_sequence, (2, 7), "int32"),
        (lambda: [Total()], (2, 3), "float32"),
        (lambda: [nn.Conv2D(4, 3), Turn()], (1, 3, 6, 5), "float32"),
    ],
    ids=["image", "sequence", "zero_dim", "axes"],
)
def test_a_network_is_one_node(layers: Callable[[], list[Any]], shape: tuple[int, ...], dtype: str) -> None:
    """The whole network is one TensorRT node, twice in a row with the results of MXNet."""
    net = nn.HybridSequential()
    net.add(*layers())
    net.initialize(mx.init.Normal(0.5))
    data = mx.np.array(np.random.RandomState(0).uniform(0, 10, shape), dtype=dtype)
    expected = net(data)
    net.hybridize(backend="TensorRT")
    for _ in range(2):
        found = net(data)
        assert isinstance(found, mx.np.ndarray)
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found.asnumpy(), expected.asnumpy(), rtol=1e-5, atol=1e-5)
    assert [node.op for node in read_symbol(net._cached_graph[1]).operators] == ["_TensorRT"]
