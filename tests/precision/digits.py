"""A small network that reads handwritten digits: scikit-learn's 1797 images of 8 by 8, the last 597 held out."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Optional

import numpy as np

from tests.harness import mx
from tests.symbols import backend

BATCH = 199
TRAINED = 1200


class Digits(NamedTuple):
    """A trained network, and images with their labels: those it was trained on come first."""

    symbol: Any
    arg_params: dict[str, Any]
    aux_params: dict[str, Any]
    images: np.ndarray
    labels: np.ndarray

    def held_out(self) -> list[np.ndarray]:
        """Returns the images that the network has not seen, in batches."""
        return [self.images[i : i + BATCH] for i in range(TRAINED, len(self.images), BATCH)]

    def accuracy(self, scores: np.ndarray) -> float:
        """Returns the share of held-out images whose largest score is that of their label."""
        return float((scores.argmax(1) == self.labels[TRAINED:]).mean())


def network() -> Any:
    """Returns two convolutions with batch normalization and two fully connected layers."""
    sym = mx.sym
    x = sym.var("data")
    for i, filters in enumerate((16, 32)):
        x = sym.Convolution(x, kernel=(3, 3), pad=(1, 1), num_filter=filters, no_bias=True, name=f"conv{i}")
        x = sym.relu(sym.BatchNorm(x, fix_gamma=False, name=f"bn{i}"), name=f"relu{i}")
        x = sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max", name=f"pool{i}")
    x = sym.relu(sym.FullyConnected(x, num_hidden=64, name="fc0"), name="relu2")
    return sym.SoftmaxOutput(sym.FullyConnected(x, num_hidden=10, name="fc1"), name="softmax")


def load(path: Optional[str] = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images (1797, 1, 8, 8) from 0 to 1, and their labels, in a fixed random order.

    Args:
        path: An .npz file with "images" (1797, 8, 8) from 0 to 16 and "labels", where scikit-learn is not installed.
    """
    if path is None:
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels, labels = found.images, found.target
    else:
        with np.load(path) as archive:
            pixels, labels = archive["images"], archive["labels"]
    order = np.random.default_rng(0).permutation(len(labels))
    images = (pixels / 16).astype(np.float32)[:, None]
    return images[order], labels.astype(np.float32)[order]


@functools.lru_cache(maxsize=1)
def trained(path: Optional[str] = None) -> Digits:
    """Returns the network after a few epochs, which take less than a second; `path` as in `load`."""
    images, labels = load(path)
    mx.random.seed(1)
    np.random.seed(1)
    with backend("NONE"):
        module = mx.mod.Module(network(), context=mx.cpu())
        batches = mx.io.NDArrayIter(images[:TRAINED], labels[:TRAINED], 100, shuffle=True)
        module.fit(
            batches,
            num_epoch=8,
            optimizer="adam",
            optimizer_params={"learning_rate": 3e-3},
            initializer=mx.init.Xavier(),
        )
        arguments, auxiliary = module.get_params()
    return Digits(network(), arguments, auxiliary, images, labels)
