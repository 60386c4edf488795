"""ResNet-18 with and without TensorRT through the calls of MXNet 1.3, the first version that had TensorRT.

A program of 2018 looked like this, and runs again beside a stock MXNet 1.9.1. Usage:

    python examples/mxnet_1_3.py [RUNS]

Weights are random, since nothing is downloaded. With an mxnet-cuXX wheel and a GPU that it supports, use mx.gpu(0).
"""

import os
import sys
import tempfile
import time

import mxnet as mx
from mxnet.gluon.model_zoo import vision

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 100
SHAPE = (1, 3, 224, 224)
context = mx.cpu()


def timed(executor, data):
    """Returns the output, and the milliseconds of one forward."""
    for _ in range(10):
        output = executor.forward(is_train=False, data=data)[0]
        output.wait_to_read()
    start = time.perf_counter()
    for _ in range(RUNS):
        output = executor.forward(is_train=False, data=data)[0]
        output.wait_to_read()
    return output.asnumpy(), (time.perf_counter() - start) / RUNS * 1e3


mx.random.seed(0)
data = mx.nd.random.normal(shape=SHAPE, ctx=context)
with tempfile.TemporaryDirectory() as folder:
    network = vision.resnet18_v2()
    network.initialize(mx.init.Xavier())
    network.hybridize()
    with mx.autograd.train_mode():  # gives the batch normalizations statistics that fit
        for _ in range(3):
            network(mx.nd.random.normal(shape=(4, *SHAPE[1:]))).wait_to_read()
    network(data)
    network.export(os.path.join(folder, "resnet18_v2"))
    symbol, arg_params, aux_params = mx.model.load_checkpoint(os.path.join(folder, "resnet18_v2"), 0)

os.environ["MXNET_USE_TENSORRT"] = "0"
executor = symbol.simple_bind(ctx=context, data=SHAPE, grad_req="null", force_rebind=True)
executor.copy_params_from(arg_params, aux_params)
expected, stock = timed(executor, data)

os.environ["MXNET_USE_TENSORRT"] = "1"
arg_params.update(aux_params)
all_params = {name: value.as_in_context(context) for name, value in arg_params.items()}
executor = mx.contrib.tensorrt.tensorrt_bind(
    symbol, ctx=context, all_params=all_params, data=SHAPE, grad_req="null", force_rebind=True
)
found, tensorrt = timed(executor, data)

nodes = mx.contrib.tensorrt.get_optimized_symbol(executor).get_internals().list_outputs()
print(f"MXNet     {stock:6.2f} ms per forward, {len(arg_params)} arrays of parameters")
print(f"TensorRT  {tensorrt:6.2f} ms per forward, {len(all_params)} left outside the engine; nodes: {', '.join(nodes)}")
print(f"largest difference {abs(found - expected).max():.1e}, same class: {found.argmax() == expected.argmax()}")
