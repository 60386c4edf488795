"""Scores a data set in batches with mx.mod.Module; the last batch is short.

Module.fit trains a small network on the digits that scikit-learn ships, with TensorRT on, which leaves training to
MXNet. Then Module.load and Module.predict score 500 digits in batches of 64: NDArrayIter fills up the last of them.
"""

import logging
import sys
import tempfile
from pathlib import Path

import mxnet as mx
import numpy as np
from common import arguments, backend, digits, milliseconds, speed, verdict


def network():
    """Returns two dense layers and SoftmaxOutput, which has a label as an input."""
    net = mx.sym.Flatten(mx.sym.Variable("data"))
    for size in (128, 64):
        net = mx.sym.Activation(mx.sym.FullyConnected(net, num_hidden=size), act_type="relu")
    return mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=10), name="softmax")


def fit(prefix, data, labels, epochs):
    """Trains and writes a checkpoint."""
    mx.random.seed(0)
    np.random.seed(0)
    module = mx.mod.Module(network())
    batches = mx.io.NDArrayIter(data, labels, 64, shuffle=True, label_name="softmax_label")
    module.fit(batches, num_epoch=epochs, optimizer="adam", initializer=mx.init.Xavier())
    module.save_checkpoint(prefix, epochs)


def load(prefix, epoch, batches):
    """Returns the module, bound for scoring."""
    module = mx.mod.Module.load(prefix, epoch)
    module.bind(batches.provide_data, batches.provide_label, for_training=False)
    return module


def main():
    """Trains, scores with and without TensorRT, and returns the exit status."""
    options = arguments(__doc__, batch=64, epochs=15)
    logging.getLogger().setLevel(logging.ERROR)  # Module.fit tells of every epoch
    (data, labels), (images, truth) = digits()
    scores, times = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "digits")
        with backend("TensorRT"):
            fit(prefix, data, labels, options.epochs)
        for name in ("MXNet", "TensorRT"):
            batches = mx.io.NDArrayIter(images, truth, options.batch, label_name="softmax_label")
            with backend(name):
                module = load(prefix, options.epochs, batches)
                scores[name] = module.predict(batches).asnumpy()
                ((_, accuracy),) = module.score(batches, "acc")
                times[name] = milliseconds(lambda m=module, b=batches: m.predict(b).wait_to_read(), options.seconds)
            print(f"{name:<9} {len(scores[name])} rows scored, accuracy {accuracy:.1%}")
    count = -(-len(images) // options.batch)
    speed(times["MXNet"], times["TensorRT"], f"{count} batches of {options.batch}, with Module's own work")
    return verdict(scores["TensorRT"], scores["MXNet"])


if __name__ == "__main__":
    sys.exit(main())
