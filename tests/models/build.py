"""Makes networks ready to be bound, with weights that are random but fixed.

The statistics of batch normalizations are real ones, those of random data: with the initial mean 0 and variance 1 a
deep network's numbers overflow or vanish, and a converter that drops the statistics would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

import numpy as np

from tests.harness import Fill, mx

nn = mx.gluon.nn

STATISTICS_BATCH = 4

# Gammas and betas are random around 1. A random network of batch normalizations with betas around 0 is
# chaotic: behind 150 layers a change of its input in the last bit is a change of its output by 1e-3, and no
# two correct implementations agree. Shifted into the linear part of the ReLU it is not.
SPREAD = 0.1


class Network(NamedTuple):
    """A network ready to be bound.

    Attributes:
        symbol: The graph.
        arg_params: The parameters by name.
        aux_params: The auxiliary states by name.
        data_shapes: The shapes of what is fed.
        fills: The contents of what is fed, where standard normal numbers will not do.
    """

    symbol: Any
    arg_params: dict[str, Any]
    aux_params: dict[str, Any]
    data_shapes: Mapping[str, tuple[int, ...]]
    fills: Mapping[str, Fill] = {}  # noqa: RUF012  (a NamedTuple's default is never written)

    def data(self) -> dict[str, Any]:
        """Returns fixed random inputs."""
        return _data(self.data_shapes, self.fills, np.random.RandomState(3))


def _data(shapes: Mapping[str, tuple[int, ...]], fills: Mapping[str, Fill], rng: Any) -> dict[str, Any]:
    return {
        name: mx.nd.array(fills[name](rng, shape) if name in fills else rng.standard_normal(shape))
        for name, shape in shapes.items()
    }


def from_gluon(
    net: Any,
    shapes: Mapping[str, tuple[int, ...]],
    fills: Optional[Mapping[str, Fill]] = None,
) -> Network:
    """Returns the network of a HybridBlock.

    Args:
        net: The block; called with as many inputs as there are shapes.
        shapes: The shapes of the inputs by name, in the order of the block's arguments.
        fills: As in Network.
    """
    mx.random.seed(7)
    np.random.seed(7)
    rng = np.random.RandomState(11)
    net.initialize(mx.init.Xavier(factor_type="in", magnitude=2.0))
    net(*_data(shapes, fills or {}, rng).values())  # completes the shapes of the parameters
    _measure_statistics(net, shapes, rng)
    symbol = mx.sym.Group(_flat(net(*[mx.sym.var(name) for name in shapes])))
    params = {name: param.data() for name, param in net.collect_params().items()}
    aux = set(symbol.list_auxiliary_states())
    return Network(
        symbol,
        {k: v for k, v in params.items() if k not in aux},
        {k: v for k, v in params.items() if k in aux},
        shapes,
        fills or {},
    )


def _measure_statistics(net: Any, shapes: Mapping[str, tuple[int, ...]], rng: Any) -> None:
    """Gives each batch normalization the mean and variance of what reaches it, one behind the other."""
    batch_norms = _batch_norms(net)
    if not batch_norms:
        return

    def measure(block: Any, inputs: Any) -> None:
        data = inputs[0].asnumpy()
        others = tuple(axis for axis in range(data.ndim) if axis != block._kwargs["axis"])
        block.running_mean.set_data(mx.nd.array(data.mean(others)))
        block.running_var.set_data(mx.nd.array(data.var(others)))

    for block in batch_norms:
        for param in (block.gamma, block.beta):
            param.set_data(mx.nd.array(1 + SPREAD * rng.standard_normal(param.shape)))
    hooks = [block.register_forward_pre_hook(measure) for block in batch_norms]
    several = {name: (max(shape[0], STATISTICS_BATCH), *shape[1:]) for name, shape in shapes.items()}
    for output in _flat(net(*_data(several, {}, rng).values())):
        output.wait_to_read()
    for hook in hooks:
        hook.detach()


def _flat(outputs: Any) -> list[Any]:
    """Returns the outputs of a block, which may be a list of lists, as one list."""
    return [o for part in outputs for o in _flat(part)] if isinstance(outputs, (list, tuple)) else [outputs]


def _batch_norms(block: Any) -> list[Any]:
    found = [block] if isinstance(block, nn.BatchNorm) else []
    for child in block._children.values():
        found += _batch_norms(child)
    return found


def from_symbol(symbol: Any, shapes: Mapping[str, tuple[int, ...]]) -> Network:
    """Returns the network of a symbol; `shapes` are those of what is fed."""
    rng = np.random.RandomState(7)
    arg_shapes, _, _ = symbol.infer_shape(**shapes)
    params = {}
    for name, shape in zip(symbol.list_arguments(), arg_shapes):
        if name not in shapes and not name.endswith("label"):
            scale = 1.0 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
            params[name] = mx.nd.array(rng.standard_normal(shape) * scale)
    return Network(symbol, params, {}, shapes)
