"""Classifies an image file with a network that is trained first, on the CPU in a few seconds.

The network is trained on the 8 by 8 digits that scikit-learn ships; nothing is downloaded. One digit that it has not
seen is written as a PNG file and read again. --image takes a file of yours: a light digit on dark ground.
"""

import sys
import tempfile
from pathlib import Path

import mxnet as mx
import numpy as np
from common import arguments, backend, digits, milliseconds, speed, train_digits, verdict
from PIL import Image


def read(file):
    """Returns the image as the network takes it, (1, 1, 8, 8) in [0, 1]."""
    image = mx.image.imresize(mx.image.imread(str(file), flag=0), 8, 8, interp=3)
    return image.astype("float32").transpose((2, 0, 1)).expand_dims(0) / 255


def bind(prefix, data):
    """Returns an executor of the checkpoint: a program of MXNet as it always was."""
    symbol, arg_params, aux_params = mx.model.load_checkpoint(prefix, 0)
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=data.shape)
    executor.copy_params_from(arg_params, aux_params)
    return executor


def main():
    """Trains, classifies with and without TensorRT, and returns the exit status."""
    options = arguments(__doc__, image=None, number=7)
    _, (images, labels) = digits()
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "digits")
        train_digits(prefix)
        file, written = options.image, "?"
        if file is None:
            written = labels[options.number]
            file = Path(folder) / "digit.png"
            pixels = np.uint8(images[options.number, 0] * 255)
            Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(file)
        data = read(file)
        found, times = {}, {}
        for name in ("MXNet", "TensorRT"):
            with backend(name):
                one, many = bind(prefix, data), bind(prefix, images)
                found[name] = one.forward(is_train=False, data=data)[0].asnumpy()[0]
                times[name] = milliseconds(lambda e=one: e.forward(data=data)[0].wait_to_read(), options.seconds)
                guesses = many.forward(is_train=False, data=mx.nd.array(images))[0].asnumpy().argmax(1)
            print(f"{name:<9} accuracy on {len(images)} digits it has not seen: {(guesses == labels).mean():.1%}")
    best = found["TensorRT"].argsort()[::-1][:3]
    shares = ", ".join(f"{i} ({found['TensorRT'][i]:.1%})" for i in best)
    print(f"{Path(file).name}, which shows a {written}: {shares}")
    speed(times["MXNet"], times["TensorRT"], "one image")
    status = verdict(found["TensorRT"], found["MXNet"])
    return status or int(options.image is None and best[0] != written)


if __name__ == "__main__":
    sys.exit(main())
