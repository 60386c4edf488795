"""Networks for tests: every one of Gluon's vision zoo, an MLP, LeNet with SoftmaxOutput and a WaveNet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.harness import mx
from tests.models.build import Network, from_gluon, from_symbol

gluon, nn = mx.gluon, mx.gluon.nn

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
    return from_gluon(gluon.model_zoo.vision.get_model(name, classes=100), {"data": (batch, 3, size, size)})


def mlp(batch: int = 2) -> Network:
    """Returns three fully connected layers with a softmax, from the symbol interface."""
    data = mx.sym.var("data")
    for i, units in enumerate((64, 32)):
        data = mx.sym.Activation(mx.sym.FullyConnected(data, num_hidden=units, name=f"fc{i}"), act_type="relu")
    symbol = mx.sym.softmax(mx.sym.FullyConnected(data, num_hidden=10, name="fc2"))
    return from_symbol(symbol, {"data": (batch, 784)})


def lenet(batch: int = 2) -> Network:
    """Returns LeNet as MXNet's examples had it: tanh, max pooling, and SoftmaxOutput with its label."""
    data = mx.sym.var("data")
    for i, filters in enumerate((20, 50)):
        data = mx.sym.Convolution(data, kernel=(5, 5), num_filter=filters, name=f"conv{i}")
        data = mx.sym.Activation(data, act_type="tanh")
        data = mx.sym.Pooling(data, pool_type="max", kernel=(2, 2), stride=(2, 2))
    data = mx.sym.FullyConnected(mx.sym.Flatten(data), num_hidden=500, name="fc0")
    data = mx.sym.FullyConnected(mx.sym.Activation(data, act_type="tanh"), num_hidden=10, name="fc1")
    return from_symbol(mx.sym.SoftmaxOutput(data, name="softmax"), {"data": (batch, 1, 28, 28)})


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
    return from_gluon(_WaveNet(layers=8, channels=32, classes=64), {"data": (batch, 64, 512)})


BUILDERS: dict[str, Callable[[], Network]] = {"mlp": mlp, "lenet": lenet, "wavenet": wavenet}
BUILDERS.update({name: (lambda n=name: vision(n)) for name in VISION})  # type: ignore[misc]
