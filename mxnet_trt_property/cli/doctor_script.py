"""A plain MXNet inference program, to see whether TensorRT takes its nodes: a tiny network, checked against NumPy.

Prints the module that serves as mx.contrib.tensorrt, which tells whether the import hook was at work.
"""

import mxnet as mx
import numpy as np


def main():
    """Binds and runs the network.

    Raises:
        AssertionError: The result is wrong.
    """
    print(mx.contrib.tensorrt.__name__, flush=True)
    data = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, no_bias=True, name="fc")
    symbol = mx.sym.Activation(data, act_type="relu", name="relu")
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(2, 4))
    arrays = {"data": np.arange(-4, 4).reshape(2, 4), "fc_weight": np.arange(12).reshape(3, 4) % 5 - 2}
    for name, array in arrays.items():
        executor.arg_dict[name][:] = array
    found = executor.forward(is_train=False)[0].asnumpy()
    # Small whole numbers: their products and sums are exact in every precision.
    np.testing.assert_array_equal(found, np.maximum(arrays["data"] @ arrays["fc_weight"].T, 0))


if __name__ == "__main__":
    main()
