"""What the examples share: the switch, a clock, the check against stock MXNet, and a network of handwritten digits."""

import argparse
import contextlib
import os
import time

import mxnet as mx
import numpy as np
from mxnet.gluon import Trainer, loss, nn

import mxnet_trt_property  # not needed to run anything: it tells below what ran


def arguments(doc, **options):
    """Returns the command line's values: each option with its default, and `--seconds` of timing."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**options, "seconds": 1.0}.items():
        kind = str if default is None else type(default)
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=default, help=f"(default: {default})")
    return parser.parse_args()


@contextlib.contextmanager
def backend(name):
    """Sets MXNET_SUBGRAPH_BACKEND for a block, or unsets it for "MXNet", for a program that runs both ways.

    `MXNET_SUBGRAPH_BACKEND=TensorRT python program.py` does it for a whole program.
    """
    before = os.environ.pop("MXNET_SUBGRAPH_BACKEND", None)
    if name != "MXNet":
        os.environ["MXNET_SUBGRAPH_BACKEND"] = name
    try:
        yield
    finally:
        os.environ.pop("MXNET_SUBGRAPH_BACKEND", None)
        if before is not None:
            os.environ["MXNET_SUBGRAPH_BACKEND"] = before


def milliseconds(call, seconds):
    """Returns the median time of a call that waits for its results."""
    for _ in range(3):
        call()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def difference(found, expected):
    """Returns ||a - b|| / ||b||."""
    return float(np.linalg.norm(np.ravel(found - expected)) / np.linalg.norm(np.ravel(expected)))


def verdict(found, expected, reports=None):
    """Prints which engine ran how many operators and whether the results are MXNet's; returns the exit status.

    Without `reports` they are those of the TensorRT nodes alive in this process. float32 on the CPU is right to 1e-5;
    TensorRT on a GPU computes in TF32, with 10 bits of mantissa.
    """
    ran = [r for r in (mxnet_trt_property.reports() if reports is None else reports) if r.engine]
    engines = ", ".join(sorted({r.engine for r in ran}))
    limit = 2e-3 if "tensorrt" in engines else 1e-5
    error = difference(found, expected)
    right = bool(ran) and error <= limit
    print(f"TensorRT nodes: {sum(r.nodes for r in ran)} operators in {len(ran)} node(s), run by {engines or 'nothing'}")
    print(f"difference from stock MXNet: {error:.1e} (limit {limit:.0e}): {'agrees' if right else 'DISAGREES'}")
    return 0 if right else 1


def speed(stock, ours, what):
    """Prints two times."""
    print(f"speed: {what}: MXNet {stock:.2f} ms, with TensorRT on {ours:.2f} ms ({stock / ours:.2f} x)")


def digits():
    """Returns scikit-learn's 1797 scanned digits (N, 1, 8, 8) in [0, 1] and labels, for training and for testing."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) / 16).astype("float32")
    order = np.random.RandomState(0).permutation(len(images))
    train, test = order[:1297], order[1297:]
    return (images[train], labels[train]), (images[test], labels[test])


def train_digits(prefix, epochs=12):
    """Trains a small network on the digits in a few seconds and writes it as a checkpoint; output: probabilities."""
    mx.random.seed(0)
    np.random.seed(0)
    (images, labels), _ = digits()
    net = nn.HybridSequential()
    for channels in (16, 32):
        net.add(nn.Conv2D(channels, 3, padding=1, use_bias=False), nn.BatchNorm(), nn.Activation("relu"))
    net.add(nn.MaxPool2D(2), nn.Flatten(), nn.Dense(64, activation="relu"), nn.Dropout(0.3), nn.Dense(10))
    train(net, images, labels, loss.SoftmaxCrossEntropyLoss(), epochs)
    symbol = mx.sym.softmax(net(mx.sym.Variable("data")), name="probabilities")
    values = {name: parameter.data() for name, parameter in net.collect_params().items()}
    states = set(symbol.list_auxiliary_states())
    mx.model.save_checkpoint(
        prefix,
        0,
        symbol,
        {k: v for k, v in values.items() if k not in states},
        {k: v for k, v in values.items() if k in states},
    )


def train(net, inputs, targets, criterion, epochs, batch=64, rate=3e-3):
    """Trains a Gluon block with Adam; training is MXNet's, whatever the variables say."""
    net.initialize(mx.init.Xavier())
    net.hybridize()
    trainer = Trainer(net.collect_params(), "adam", {"learning_rate": rate})
    inputs, targets = mx.nd.array(inputs), mx.nd.array(targets)
    for _ in range(epochs):
        order = mx.nd.array(np.random.permutation(len(inputs)))
        for start in range(0, len(inputs) - batch + 1, batch):
            chosen = order[start : start + batch]
            with mx.autograd.record():
                value = criterion(net(inputs.take(chosen)), targets.take(chosen))
            value.backward()
            trainer.step(batch)
    mx.nd.waitall()
