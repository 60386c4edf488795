"""Networks that MXNet itself quantized, of those that its kernels on the CPU can run."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tests.harness import mx
from tests.symbols import backend, random_arrays

SHAPE = (4, 3, 8, 8)


class Quantized(NamedTuple):
    """A quantized network with its parameters, and an input."""

    symbol: Any
    arg_params: dict[str, Any]
    aux_params: dict[str, Any]
    data: Any


def lenet() -> Any:
    """Returns a network with one convolution: on the CPU a quantized one takes uint8 only, as images from 0 up are."""
    sym = mx.sym
    x = sym.Convolution(sym.var("data"), kernel=(3, 3), num_filter=8, pad=(1, 1), name="conv")
    x = sym.Pooling(sym.Activation(x, act_type="relu"), kernel=(2, 2), stride=(2, 2), pool_type="max", name="pool")
    y = sym.Pooling(x, kernel=(3, 3), pad=(1, 1), stride=(1, 1), pool_type="avg", name="average")
    x = sym.FullyConnected(sym.Flatten(sym.Concat(x, y)), num_hidden=32, name="fc0")
    return sym.softmax(sym.FullyConnected(sym.Activation(x, act_type="relu"), num_hidden=10, name="fc1"))


def residual() -> Any:
    """Returns fully connected layers with a sum of two branches."""
    sym = mx.sym
    x = sym.Activation(sym.FullyConnected(sym.Flatten(sym.var("data")), num_hidden=32, name="fc0"), act_type="relu")
    x = sym.elemwise_add(x, sym.FullyConnected(x, num_hidden=32, name="fc1"), name="add")
    return sym.FullyConnected(x, num_hidden=10, name="fc2")


def convolutions() -> Any:
    """Returns convolutions with batch normalization, quantized as for a GPU: MXNet's CPU kernels refuse int8 images."""
    sym = mx.sym
    x = sym.var("data")
    for i in range(2):
        x = sym.Convolution(x, kernel=(3, 3), num_filter=8, pad=(1, 1), name=f"conv{i}", no_bias=True)
        x = sym.Activation(sym.BatchNorm(x, name=f"bn{i}", fix_gamma=False), act_type="relu", name=f"relu{i}")
    x = sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max", name="pool")
    return sym.FullyConnected(x, num_hidden=10, name="fc")


def quantize(symbol: Any, *, signed: bool, **options: Any) -> Quantized:
    """Returns what mx.contrib.quantization makes of a network with random weights and calibrated ranges."""
    from mxnet.contrib.quantization import quantize_model

    arrays = random_arrays(symbol, {"data": SHAPE})
    auxiliary = {k: v for k, v in arrays.items() if k in symbol.list_auxiliary_states()}
    parameters = {k: 0.3 * v for k, v in arrays.items() if k != "data" and k not in auxiliary}
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((32, *SHAPE[1:])) if signed else rng.random((32, *SHAPE[1:]))).astype(np.float32)
    with backend("NONE"):
        made = quantize_model(
            symbol,
            parameters,
            auxiliary,
            calib_mode="naive",
            calib_data=mx.io.NDArrayIter({"data": data}, batch_size=SHAPE[0]),
            num_calib_examples=32,
            label_names=None,
            **options,
        )
    return Quantized(*made, mx.nd.array(data[: SHAPE[0]]))


def run(network: Quantized, name: str) -> tuple[Any, np.ndarray]:
    """Returns an executor of a quantized network under a backend, and what it computes."""
    dtypes = {k: v.dtype for k, v in {**network.arg_params, **network.aux_params}.items()}
    with backend(name, MXNET_TENSORRT_ON_ERROR="raise"):
        executor = network.symbol.simple_bind(
            mx.cpu(), grad_req="null", type_dict={"data": "float32", **dtypes}, data=SHAPE
        )
        executor.copy_params_from(network.arg_params, network.aux_params)
        return executor, executor.forward(is_train=False, data=network.data)[0].asnumpy()
