"""Training with the variable set: MXNet does it, the numbers are the same, and one warning says so."""

from __future__ import annotations

import logging
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from tests.symbols import backend, conv_bn, taken_nodes

COUNT, CLASSES = 24, 5


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((COUNT, 3, 8, 8)).astype("float32"), rng.integers(0, CLASSES, COUNT).astype("float32")


def module_losses(name: Any) -> tuple[list[float], list[np.ndarray], Any]:
    """Trains with Module.fit; returns the loss after each batch, the parameters, and the module."""
    mx.random.seed(3)
    np.random.seed(3)
    images, labels = data()
    losses: list[float] = []
    module = mx.mod.Module(conv_bn())
    with backend(name):
        module.fit(
            mx.io.NDArrayIter(images, labels, batch_size=8),
            eval_data=mx.io.NDArrayIter(images, labels, batch_size=8),
            eval_metric="ce",
            optimizer_params={"learning_rate": 0.1},
            initializer=mx.init.Xavier(),
            num_epoch=3,
            batch_end_callback=lambda p: losses.append(p.eval_metric.get()[1]),
        )
        losses.append(module.score(mx.io.NDArrayIter(images, labels, batch_size=8), "ce")[0][1])
    arguments, auxiliary = module.get_params()
    return losses, [v.asnumpy() for _, v in sorted({**arguments, **auxiliary}.items())], module


def gluon_losses(name: Any, hybridize: bool) -> list[float]:
    """Trains with Trainer; returns the loss of each step and of inference afterwards."""
    mx.random.seed(3)
    np.random.seed(3)
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(4, 3), mx.gluon.nn.BatchNorm(), mx.gluon.nn.Activation("relu"))
    net.add(mx.gluon.nn.Dropout(0.3), mx.gluon.nn.Dense(CLASSES))
    net.initialize(mx.init.Xavier())
    images, labels = (mx.nd.array(v) for v in data())
    criterion = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    losses = []
    with backend(name):
        if hybridize:
            net.hybridize()
        trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
        for _ in range(5):
            with mx.autograd.record():
                loss = criterion(net(images), labels).mean()
            loss.backward()
            trainer.step(1)
            losses.append(float(loss.asscalar()))
        losses.append(float(criterion(net(images), labels).mean().asscalar()))
    return losses


def test_module_fit(caplog: pytest.LogCaptureFixture, fresh_warnings: None) -> None:
    expected, expected_params, _ = module_losses(None)
    found, found_params, module = module_losses("TensorRT")
    assert found == expected
    assert len(set(found)) > 5
    for a, b in zip(found_params, expected_params):
        assert np.array_equal(a, b)
    assert not any(taken_nodes(e) for e in module._exec_group.execs)
    ours = [r for r in caplog.records if r.name == "mxnet_trt_property" and r.levelno >= logging.WARNING]
    assert [("training is left to MXNet" in r.message) for r in ours] == [True]


@pytest.mark.parametrize("hybridize", [False, True])
def test_gluon_trainer(hybridize: bool, caplog: pytest.LogCaptureFixture, fresh_warnings: None) -> None:
    expected, found = gluon_losses(None, hybridize), gluon_losses("TensorRT", hybridize)
    assert found == expected
    assert found[-2] < found[0]
    assert not [r for r in caplog.records if r.name == "mxnet_trt_property" and r.levelno >= logging.WARNING]


def test_trained_module_predicts_with_tensorrt_once_bound_for_it() -> None:
    _, _, trained = module_losses("TensorRT")
    images, _ = data()
    results = []
    for name in ("NONE", "TensorRT"):
        module = mx.mod.Module(conv_bn())
        with backend(name):
            module.bind([("data", (8, 3, 8, 8))], for_training=False)
            module.set_params(*trained.get_params())
            results.append(module.predict(mx.io.NDArrayIter(images, batch_size=8)).asnumpy())
    assert taken_nodes(module._exec_group.execs[0])
    assert np.allclose(results[1], results[0], rtol=1e-5, atol=1e-6)
