"""Networks for tests: every one of Gluon's vision zoo, an MLP, LeNet with SoftmaxOutput and a WaveNet.

Weights are random but fixed. The statistics of batch normalizations are real ones, from training passes on
random data: with the initial mean 0 and variance 1 a deep network's numbers overflow or vanish, and a
converter that drops the statistics would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.harness import mx

autograd, gluon, nn = mx.autograd, mx.gluon, mx.gluon.nn

PASSES = 2
STATISTICS_BATCH = 4
MOMENTUM = 0.1

# Gammas and betas are random around 1. A random network of batch normalizations with betas around 0 is
# chaotic: behind 150 layers a change of its input in the last bit is a change of its output by 1e-3, and no
# two correct implementations agree. Shifted into the linear part of the ReLU it is not.
SPREAD = 0.1


class Network(NamedTuple):
    """A network ready to be bound: parameters and states by name, and the shapes of what is fed."""

    symbol: Any
    arg_params: dict[str, Any]
    aux_params: dict[str, Any]
    data_shapes: dict[str, tuple[int, ...]]


# These end in a pooling window of fixed size, so their input has the size they were made for.
_FIXED_SIZES = {"squeezenet1.0": 224, "squeezenet1.1": 224, "inceptionv3": 299}
_FIXED_SIZES.update({f"densenet{n}": 224 for n in (121, 161, 169, 201)})

VISION = (
    "alexnet",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "inceptionv3",
    "mobilenet0.25",
    "mobilenet0.5",
    "mobilenet0.75",
    "mobilenet1.0",
    "mobilenetv2_0.25",
    "mobilenetv2_0.5",
    "mobilenetv2_0.75",
    "mobilenetv2_1.0",
    "resnet101_v1",
    "resnet101_v2",
    "resnet152_v1",
    "resnet152_v2",
    "resnet18_v1",
    "resnet18_v2",
    "resnet34_v1",
    "resnet34_v2",
    "resnet50_v1",
    "resnet50_v2",
    "squeezenet1.0",
    "squeezenet1.1",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
)


def vision(name: str, batch: int = 1, size: int = 64) -> Network:
    """Returns a network of mxnet.gluon.model_zoo.vision; `size` counts where the network does not fix it."""
    size = _FIXED_SIZES.get(name, size)
    return _from_gluon(gluon.model_zoo.vision.get_model(name, classes=100), (batch, 3, size, size))


def mlp(batch: int = 2) -> Network:
    """Returns three fully connected layers with a softmax, from the symbol interface."""
    data = mx.sym.var("data")
    for i, units in enumerate((64, 32)):
        data = mx.sym.Activation(mx.sym.FullyConnected(data, num_hidden=units, name=f"fc{i}"), act_type="relu")
    symbol = mx.sym.softmax(mx.sym.FullyConnected(data, num_hidden=10, name="fc2"))
    return _from_symbol(symbol, {"data": (batch, 784)})


def lenet(batch: int = 2) -> Network:
    """Returns LeNet as MXNet's examples had it: tanh, max pooling, and SoftmaxOutput with its label."""
    data = mx.sym.var("data")
    for i, filters in enumerate((20, 50)):
        data = mx.sym.Convolution(data, kernel=(5, 5), num_filter=filters, name=f"conv{i}")
        data = mx.sym.Activation(data, act_type="tanh")
        data = mx.sym.Pooling(data, pool_type="max", kernel=(2, 2), stride=(2, 2))
    data = mx.sym.FullyConnected(mx.sym.Flatten(data), num_hidden=500, name="fc0")
    data = mx.sym.FullyConnected(mx.sym.Activation(data, act_type="tanh"), num_hidden=10, name="fc1")
    return _from_symbol(mx.sym.SoftmaxOutput(data, name="softmax"), {"data": (batch, 1, 28, 28)})


class _CausalConv(gluon.HybridBlock):  # type: ignore[misc]
    """A dilated convolution whose output at a time depends on no later input."""

    def __init__(self, channels: int, dilation: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._surplus = dilation
        self.conv = nn.Conv1D(channels, kernel_size=2, dilation=dilation, padding=dilation)

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803  (Gluon's own name)
        return F.slice_axis(self.conv(x), axis=2, begin=0, end=-self._surplus)


class _WaveNet(gluon.HybridBlock):  # type: ignore[misc]
    def __init__(self, layers: int, channels: int, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._layers = layers
        self.first = _CausalConv(channels, 1)
        for i in range(layers):
            setattr(self, f"filter{i}", _CausalConv(channels, 2**i))
            setattr(self, f"gate{i}", _CausalConv(channels, 2**i))
            setattr(self, f"residual{i}", nn.Conv1D(channels, kernel_size=1))
            setattr(self, f"skip{i}", nn.Conv1D(channels, kernel_size=1))
        self.last0 = nn.Conv1D(channels, kernel_size=1)
        self.last1 = nn.Conv1D(classes, kernel_size=1)

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        x = self.first(x)
        skips = []
        for i in range(self._layers):
            gated = F.tanh(getattr(self, f"filter{i}")(x)) * F.sigmoid(getattr(self, f"gate{i}")(x))
            skips.append(getattr(self, f"skip{i}")(gated))
            x = x + getattr(self, f"residual{i}")(gated)
        total = F.relu(F.add_n(*skips))
        return F.log_softmax(self.last1(F.relu(self.last0(total))), axis=1)


def wavenet(batch: int = 1) -> Network:
    """Returns a WaveNet of eight gated layers."""
    return _from_gluon(_WaveNet(layers=8, channels=32, classes=64), (batch, 64, 512))


BUILDERS: dict[str, Callable[[], Network]] = {"mlp": mlp, "lenet": lenet, "wavenet": wavenet}
BUILDERS.update({name: (lambda n=name: vision(n)) for name in VISION})  # type: ignore[misc]


def _from_gluon(net: Any, shape: tuple[int, ...]) -> Network:
    mx.random.seed(7)
    np.random.seed(7)
    rng = np.random.RandomState(11)
    net.initialize(mx.init.Xavier(factor_type="in", magnitude=2.0))
    batch_norms = _batch_norms(net)
    net(mx.nd.array(rng.standard_normal(shape)))  # completes the shapes of the parameters
    for block in batch_norms:
        for param in (block.gamma, block.beta):
            param.set_data(mx.nd.array(1 + SPREAD * rng.standard_normal(param.shape)))
        # At the default of 0.9 two passes would leave the statistics at their initial values.
        block._kwargs["momentum"] = MOMENTUM
    # The running statistics are written by the backward pass.
    for _ in range(PASSES if batch_norms else 0):
        data = mx.nd.array(rng.standard_normal((max(shape[0], STATISTICS_BATCH), *shape[1:])))
        with autograd.record():
            loss = net(data).mean()
        loss.backward()
    for block in batch_norms:
        block._kwargs["momentum"] = 0.9
    symbol = net(mx.sym.var("data"))
    params = {name: param.data() for name, param in net.collect_params().items()}
    aux = set(symbol.list_auxiliary_states())
    return Network(
        symbol,
        {k: v for k, v in params.items() if k not in aux},
        {k: v for k, v in params.items() if k in aux},
        {"data": shape},
    )


def _batch_norms(block: Any) -> list[Any]:
    found = [block] if isinstance(block, nn.BatchNorm) else []
    for child in block._children.values():
        found += _batch_norms(child)
    return found


def _from_symbol(symbol: Any, shapes: dict[str, tuple[int, ...]]) -> Network:
    rng = np.random.RandomState(7)
    arg_shapes, _, _ = symbol.infer_shape(**shapes)
    params = {}
    for name, shape in zip(symbol.list_arguments(), arg_shapes):
        if name not in shapes and not name.endswith("label"):
            scale = 1.0 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
            params[name] = mx.nd.array(rng.standard_normal(shape) * scale)
    return Network(symbol, params, {}, shapes)
