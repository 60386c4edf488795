"""Detects squares and discs with a small single shot detector that is trained first, on the CPU in some ten seconds.

The pictures are made up, so that its output means something without a download: shapes on noise. The network is SSD in
small, with MXNet's operators for it: MultiBoxPrior, MultiBoxTarget for training, MultiBoxDetection with its suppression
for inference. A picture with the boxes that were found is written.
"""

import sys
from pathlib import Path

import mxnet as mx
import numpy as np
from common import arguments, backend, milliseconds, speed, verdict
from mxnet import gluon
from mxnet.gluon import nn
from PIL import Image, ImageDraw

SIZE, NAMES, ANCHORS = 64, ("square", "disc"), 4


def pictures(count, random):
    """Returns images (N, 3, 64, 64) in [0, 1] and labels (N, 2, 5): class, left, top, right, bottom in [0, 1] or -1."""
    images = random.uniform(0, 0.3, (count, 3, SIZE, SIZE))
    labels = np.full((count, 2, 5), -1.0)
    y, x = np.mgrid[:SIZE, :SIZE]
    for image, rows in zip(images, labels):
        for half in range(random.randint(1, 3)):  # one shape, or one in the left and one in the right half
            kind, radius = random.randint(2), random.randint(7, 14)
            cx, cy = half * 32 + random.randint(radius, 33 - radius), random.randint(radius, SIZE - radius)
            far = np.maximum(abs(x - cx), abs(y - cy)) if kind == 0 else np.hypot(x - cx, y - cy)
            image[:, far <= radius] = random.uniform(0.6, 1, (3, 1))
            rows[half] = kind, *(np.array([cx - radius, cy - radius, cx + radius, cy + radius]) / SIZE)
    return images.astype("float32"), labels.astype("float32")


class Detector(gluon.HybridBlock):
    """Anchors (1, M, 4), class scores (N, 3, M) and box offsets (N, 4 M) on a grid of 8 by 8."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.trunk = nn.HybridSequential()
        for channels in (16, 32, 64):
            self.trunk.add(nn.Conv2D(channels, 3, padding=1, use_bias=False), nn.BatchNorm(), nn.Activation("relu"))
            self.trunk.add(nn.MaxPool2D(2))
        self.trunk.add(nn.Conv2D(64, 3, padding=1), nn.Activation("relu"))
        self.scores = nn.Conv2D(ANCHORS * (len(NAMES) + 1), 3, padding=1)
        self.boxes = nn.Conv2D(ANCHORS * 4, 3, padding=1)

    def hybrid_forward(self, F, x):  # noqa: N803 (Gluon's own name)
        x = self.trunk(x)
        anchors = F.contrib.MultiBoxPrior(x, sizes=(0.22, 0.28, 0.34, 0.4), ratios=(1,))
        scores = F.reshape(F.transpose(self.scores(x), (0, 2, 3, 1)), (0, -1, len(NAMES) + 1))
        return anchors, F.transpose(scores, (0, 2, 1)), F.flatten(F.transpose(self.boxes(x), (0, 2, 3, 1)))


def train(net, epochs, random):
    """Trains with the losses of SSD."""
    net.initialize(mx.init.Xavier())
    net.hybridize()
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 3e-3})
    distance = gluon.loss.HuberLoss()
    images, labels = (mx.nd.array(part) for part in pictures(512, random))
    for _ in range(epochs):
        for start in range(0, len(images), 32):
            data, truth = images[start : start + 32], labels[start : start + 32]
            with mx.autograd.record():
                anchors, scores, offsets = net(data)
                with mx.autograd.pause():
                    # Three times as many anchors of ground as of shapes count; the others get the class -1.
                    targets, mask, classes = mx.nd.contrib.MultiBoxTarget(
                        anchors, truth, scores, negative_mining_ratio=3, negative_mining_thresh=0.5, ignore_label=-1
                    )
                    counts = classes >= 0
                likely = mx.nd.pick(mx.nd.log_softmax(scores, axis=1), mx.nd.maximum(classes, 0), axis=1)
                value = -(likely * counts).sum() / counts.sum() + 100 * distance(offsets * mask, targets).mean()
            value.backward()
            trainer.step(1)
    mx.nd.waitall()


def found_boxes(rows):
    """Returns the rows (class, score, left, top, right, bottom) of one picture that are not suppressed."""
    return [row for row in rows if row[0] >= 0 and row[1] > 0.5]


def overlap(a, b):
    """Returns the intersection of two boxes over their union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inner = max(width, 0) * max(height, 0)
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def draw(image, boxes, file):
    """Writes a picture with its boxes, four times as large."""
    picture = Image.fromarray(np.uint8(image.transpose(1, 2, 0) * 255)).resize((4 * SIZE, 4 * SIZE))
    pen = ImageDraw.Draw(picture)
    for kind, score, *box in boxes:
        corners = [float(4 * SIZE * edge) for edge in box]
        pen.rectangle(corners, outline="red", width=2)
        pen.text((corners[0] + 3, corners[1] + 2), f"{NAMES[int(kind)]} {score:.2f}", fill="red")
    picture.save(file)


def main():
    """Trains, detects with and without TensorRT, and returns the exit status."""
    options = arguments(__doc__, epochs=12, out="detected.png")
    mx.random.seed(0)
    random = np.random.RandomState(0)
    net = Detector()
    train(net, options.epochs, random)
    images, labels = pictures(50, random)
    anchors, scores, offsets = net(mx.sym.Variable("data"))
    symbol = mx.sym.contrib.MultiBoxDetection(
        mx.sym.softmax(scores, axis=1), offsets, anchors, nms_threshold=0.45, nms_topk=100
    )
    values = {name: parameter.data() for name, parameter in net.collect_params().items()}
    outputs, times = {}, {}
    for name in ("MXNet", "TensorRT"):
        with backend(name):
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=images.shape)
            executor.copy_params_from(values, values, allow_extra_params=True)
            outputs[name] = executor.forward(is_train=False, data=mx.nd.array(images))[0].asnumpy()
            times[name] = milliseconds(lambda e=executor: e.forward()[0].wait_to_read(), options.seconds)
    right = 0
    total = int((labels[:, :, 0] >= 0).sum())
    boxes = [found_boxes(rows) for rows in outputs["TensorRT"]]
    for rows, found in zip(labels, boxes):
        for kind, *box in rows[rows[:, 0] >= 0]:
            right += any(int(f[0]) == kind and overlap(f[2:], box) > 0.5 for f in found)
    for kind, score, *box in boxes[0]:
        print(f"{NAMES[int(kind)]:<7} {score:.2f} at ({', '.join(f'{SIZE * edge:.1f}' for edge in box)})")
    draw(images[0], boxes[0], options.out)
    print(f"written to {Path(options.out).name}")
    print(f"{right} of the {total} shapes in {len(images)} new pictures found, with {sum(map(len, boxes))} boxes")
    speed(times["MXNet"], times["TensorRT"], f"a batch of {len(images)} pictures")
    return verdict(outputs["TensorRT"], outputs["MXNet"]) or int(right < 0.8 * total)


if __name__ == "__main__":
    sys.exit(main())
