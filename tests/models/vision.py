"""Networks that do more with images than name them: detectors, segmenters, a pose network, a generator, video.

Each is built as GluonCV or MXNet's examples build theirs, with few layers and filters: the operators around the
convolutions are what differs from a classifier.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.harness import mx
from tests.models.build import Network, from_gluon, from_symbol

gluon, nn = mx.gluon, mx.gluon.nn


def _unit(channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1, slope: float = 0.0) -> Any:
    """Returns convolution, batch normalization and (leaky) ReLU."""
    unit = nn.HybridSequential()
    padding = dilation * (kernel // 2)
    unit.add(nn.Conv2D(channels, kernel, stride, padding, dilation, use_bias=False), nn.BatchNorm())
    unit.add(nn.LeakyReLU(slope) if slope else nn.Activation("relu"))
    return unit


def _anchors(height: int, width: int, stride: int, sizes: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Returns boxes (1, 1, height, width, 4 * sizes) as center, width and height, in pixels."""
    rows, columns = np.meshgrid((np.arange(height) + 0.5) * stride, (np.arange(width) + 0.5) * stride, indexing="ij")
    boxes = [np.stack([columns, rows, np.full_like(rows, s), np.full_like(rows, s)], -1) for s in sizes]
    return np.concatenate(boxes, -1)[None, None].astype(np.float32)


class _Pyramid(gluon.HybridBlock):  # type: ignore[misc]
    """A trunk that gives the features of each of its last stages."""

    def __init__(self, channels: tuple[int, ...], levels: int, slope: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._levels = levels
        self.stages = nn.HybridSequential()
        for count in channels:
            stage = nn.HybridSequential()
            stage.add(_unit(count, stride=2, slope=slope), _unit(count, slope=slope))
            self.stages.add(stage)

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803  (Gluon's own name)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found[-self._levels :]


class _Ssd(gluon.HybridBlock):  # type: ignore[misc]
    """The single shot detector as GluonCV writes it: constant anchors, decoding in the graph, suppression."""

    def __init__(self, classes: int, levels: int, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._classes, self._levels = classes, levels
        sizes = (16, 32)
        self.trunk = _Pyramid((8, 16, 16, 24), levels)
        for i in range(levels):
            stride = 2 ** (4 - levels + i + 1)
            # Twice as many anchors as needed: what an image does not reach is cut off in the graph.
            grid = _anchors(2 * size // stride, 2 * size // stride, stride, tuple(s * 2**i for s in sizes))
            setattr(self, f"anchors{i}", self.params.get_constant(f"anchors{i}", grid))
            setattr(self, f"class_predictor{i}", nn.Conv2D(len(sizes) * (classes + 1), 3, padding=1))
            setattr(self, f"box_predictor{i}", nn.Conv2D(len(sizes) * 4, 3, padding=1))

    def hybrid_forward(self, F: Any, x: Any, **constants: Any) -> Any:  # noqa: N803
        scores, boxes, anchors = [], [], []
        for i, features in enumerate(self.trunk(x)):
            for found, predictor in ((scores, "class_predictor"), (boxes, "box_predictor")):
                prediction = getattr(self, f"{predictor}{i}")(features)
                found.append(F.flatten(F.transpose(prediction, axes=(0, 2, 3, 1))))
            cut = F.slice_like(constants[f"anchors{i}"], features * 0, axes=(2, 3))
            anchors.append(F.reshape(cut, (1, -1, 4)))
        scores = F.softmax(F.reshape(F.concat(*scores, dim=1), (0, -1, self._classes + 1)), axis=-1)
        boxes = self._decode(F, F.reshape(F.concat(*boxes, dim=1), (0, -1, 4)), F.concat(*anchors, dim=1))
        scores = F.slice_axis(scores, axis=-1, begin=1, end=None)
        ids = F.broadcast_add(scores * 0, F.reshape(F.arange(self._classes), (1, 1, self._classes)))
        mask = scores > 0.01  # noqa: PLR2004
        ids = F.where(mask, ids, F.ones_like(ids) * -1)
        scores = F.where(mask, scores, F.zeros_like(scores))
        results = []
        for i in range(self._classes):
            one = [F.slice_axis(part, axis=-1, begin=i, end=i + 1) for part in (ids, scores)]
            results.append(F.concat(*one, boxes, dim=-1))
        result = F.concat(*results, dim=1)
        return _suppressed(F, result, 20)

    @staticmethod
    def _decode(F: Any, boxes: Any, anchors: Any) -> Any:  # noqa: N803
        a = F.split(anchors, axis=-1, num_outputs=4)
        p = F.split(boxes, axis=-1, num_outputs=4)
        center_x = F.broadcast_add(F.broadcast_mul(p[0] * 0.1, a[2]), a[0])
        center_y = F.broadcast_add(F.broadcast_mul(p[1] * 0.1, a[3]), a[1])
        half_width = F.broadcast_mul(F.exp(p[2] * 0.2), a[2]) / 2
        half_height = F.broadcast_mul(F.exp(p[3] * 0.2), a[3]) / 2
        corners = (center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height)
        return F.concat(*corners, dim=-1)


def _suppressed(F: Any, detections: Any, count: int) -> list[Any]:  # noqa: N803
    """Returns class ids, scores and boxes of the best detections."""
    kept = F.contrib.box_nms(
        detections, overlap_thresh=0.45, valid_thresh=0.01, topk=100, id_index=0, score_index=1, coord_start=2
    )
    kept = F.slice_axis(kept, axis=1, begin=0, end=count)
    bounds = ((0, 1), (1, 2), (2, 6))
    return [F.slice_axis(kept, axis=2, begin=begin, end=end) for begin, end in bounds]


def ssd(batch: int = 2, size: int = 64) -> Network:
    """Returns GluonCV's kind of single shot detector."""
    return from_gluon(_Ssd(classes=3, levels=3, size=size), {"data": (batch, 3, size, size)})


def ssd_multibox(batch: int = 2, size: int = 64) -> Network:
    """Returns the single shot detector of MXNet's examples, with the operators that MXNet has for it."""
    classes, anchors_each = 3, 3
    features, levels = mx.sym.var("data"), []
    for i, filters in enumerate((8, 16, 16)):
        features = mx.sym.Convolution(features, kernel=(3, 3), pad=(1, 1), num_filter=filters, name=f"conv{i}")
        features = mx.sym.Pooling(mx.sym.relu(features), kernel=(2, 2), stride=(2, 2), pool_type="max")
        levels.append(features)
    scores, boxes, anchors = [], [], []
    for i, level in enumerate(levels[1:]):
        for found, count, name in ((scores, classes + 1, "class"), (boxes, 4, "box")):
            predicted = mx.sym.Convolution(
                level, kernel=(3, 3), pad=(1, 1), num_filter=anchors_each * count, name=f"{name}{i}"
            )
            found.append(mx.sym.Flatten(mx.sym.transpose(predicted, axes=(0, 2, 3, 1))))
        prior = mx.sym.contrib.MultiBoxPrior(level, sizes=(0.2 + 0.3 * i, 0.3 + 0.3 * i), ratios=(1, 2), clip=False)
        anchors.append(mx.sym.Flatten(prior))
    class_scores = mx.sym.Reshape(mx.sym.concat(*scores, dim=1), shape=(0, -1, classes + 1))
    probabilities = mx.sym.SoftmaxActivation(mx.sym.transpose(class_scores, axes=(0, 2, 1)), mode="channel")
    symbol = mx.sym.contrib.MultiBoxDetection(
        probabilities,
        mx.sym.concat(*boxes, dim=1),
        mx.sym.Reshape(mx.sym.concat(*anchors, dim=1), shape=(0, -1, 4)),
        nms_threshold=0.5,
        force_suppress=False,
        variances=(0.1, 0.1, 0.2, 0.2),
        nms_topk=100,
    )
    return from_symbol(symbol, {"data": (batch, 3, size, size)})


class _YoloHead(gluon.HybridBlock):  # type: ignore[misc]
    """One scale's output: boxes relative to grid and anchors become corners, with a score for each class."""

    def __init__(self, classes: int, anchors: tuple[int, ...], stride: int, grid: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._classes, self._count, self._stride = classes, len(anchors), stride
        rows, columns = np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij")
        offsets = np.stack([columns, rows], -1)[None, None].astype(np.float32)
        self.offsets = self.params.get_constant("offsets", offsets)
        sizes = np.array([(a, a) for a in anchors], np.float32).reshape(1, 1, -1, 2)
        self.anchors = self.params.get_constant("anchors", sizes)
        self.prediction = nn.Conv2D(len(anchors) * (5 + classes), 1)

    def hybrid_forward(self, F: Any, x: Any, offsets: Any, anchors: Any) -> Any:  # noqa: N803
        width = 5 + self._classes
        raw = F.transpose(F.reshape(self.prediction(x), (0, self._count * width, -1)), axes=(0, 2, 1))
        raw = F.reshape(raw, (0, -1, self._count, width))
        parts = [F.slice_axis(raw, axis=-1, begin=b, end=e) for b, e in ((0, 2), (2, 4), (4, 5), (5, None))]
        cells = F.reshape(F.slice_like(offsets, x * 0, axes=(2, 3)), (1, -1, 1, 2))
        centers = F.broadcast_add(F.sigmoid(parts[0]), cells) * self._stride
        halves = F.broadcast_mul(F.exp(parts[1]), anchors) / 2.0
        scores = F.broadcast_mul(F.sigmoid(parts[3]), F.sigmoid(parts[2]))
        boxes = F.concat(centers - halves, centers + halves, dim=-1)
        boxes = F.tile(F.expand_dims(boxes, axis=0), reps=(self._classes, 1, 1, 1, 1))
        scores = F.expand_dims(F.transpose(scores, axes=(3, 0, 1, 2)), axis=-1)
        ids = F.broadcast_add(scores * 0, F.reshape(F.arange(0, self._classes), (0, 1, 1, 1, 1)))
        found = F.transpose(F.concat(ids, scores, boxes, dim=-1), axes=(1, 0, 2, 3, 4))
        return F.reshape(found, (0, -1, 6))


class _Yolo(gluon.HybridBlock):  # type: ignore[misc]
    """Two scales of YOLOv3: the coarse features are repeated and join the fine ones."""

    def __init__(self, classes: int, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trunk = _Pyramid((8, 16, 24, 32), levels=2, slope=0.1)
        self.coarse = _YoloHead(classes, (24, 40), 16, size // 16)
        self.narrow = nn.Conv2D(16, 1)
        self.fine = _YoloHead(classes, (8, 16), 8, size // 8)

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        fine, coarse = self.trunk(x)
        up = F.repeat(F.repeat(self.narrow(coarse), axis=-1, repeats=2), axis=-2, repeats=2)
        joined = F.concat(F.slice_like(up, fine * 0, axes=(2, 3)), fine, dim=1)
        return _suppressed(F, F.concat(self.coarse(coarse), self.fine(joined), dim=1), 20)


def yolo(batch: int = 2, size: int = 64) -> Network:
    """Returns a detector as GluonCV's YOLOv3 is made."""
    return from_gluon(_Yolo(classes=3, size=size), {"data": (batch, 3, size, size)})


def fcn(batch: int = 2, size: int = 48) -> Network:
    """Returns FCN-16s of MXNet's examples: scores of two depths, deconvolved, cropped and added."""
    classes = 5
    data = mx.sym.var("data")
    features, levels = data, []
    for i, filters in enumerate((8, 16, 16)):
        # As in the original, the wide pad of the first layer is what the crops cut off.
        pad = 10 if i == 0 else 1
        features = mx.sym.Convolution(features, kernel=(3, 3), pad=(pad, pad), num_filter=filters, name=f"conv{i}")
        features = mx.sym.Activation(features, act_type="relu")
        features = mx.sym.Pooling(
            features, kernel=(2, 2), stride=(2, 2), pool_type="max", pooling_convention="full", name=f"pool{i}"
        )
        levels.append(mx.sym.Convolution(features, kernel=(1, 1), num_filter=classes, name=f"score{i}"))
    up = mx.sym.Deconvolution(levels[2], kernel=(4, 4), stride=(2, 2), num_filter=classes, no_bias=True, name="up2")
    up = mx.sym.Crop(up, levels[1], num_args=2, offset=(1, 1), name="crop1")
    fused = up + levels[1]
    large = mx.sym.Deconvolution(fused, kernel=(8, 8), stride=(4, 4), num_filter=classes, no_bias=True, name="up4")
    large = mx.sym.Crop(large, data, num_args=2, offset=(11, 11), name="crop0")
    return from_symbol(mx.sym.SoftmaxOutput(large, multi_output=True, name="softmax"), {"data": (batch, 3, size, size)})


class _DeepLab(gluon.HybridBlock):  # type: ignore[misc]
    """DeepLabV3+: parallel dilated convolutions and the image's mean, resized and joined with early features."""

    def __init__(self, classes: int, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._size = size
        self.early = _unit(8, stride=2)
        self.late = nn.HybridSequential()
        self.late.add(_unit(16, stride=2), _unit(16, stride=2), _unit(24, dilation=2))
        self.branches = nn.HybridSequential()
        self.branches.add(_unit(8, 1), _unit(8, dilation=2), _unit(8, dilation=4))
        self.image = nn.HybridSequential()
        self.image.add(nn.GlobalAvgPool2D(), _unit(8, 1))
        self.project = nn.HybridSequential()
        self.project.add(_unit(16, 1), nn.Dropout(0.5))
        self.head = nn.HybridSequential()
        self.head.add(_unit(16), nn.Conv2D(classes, 1))

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        early = self.early(x)
        late = self.late(early)
        small, half = self._size // 8, self._size // 2
        image = F.contrib.BilinearResize2D(self.image(late), height=small, width=small)
        joined = self.project(F.concat(*[branch(late) for branch in self.branches], image, dim=1))
        joined = F.contrib.BilinearResize2D(joined, height=half, width=half)
        scores = self.head(F.concat(joined, early, dim=1))
        scores = F.contrib.BilinearResize2D(scores, height=self._size, width=self._size)
        return [scores, F.argmax(scores, axis=1)]


def deeplab(batch: int = 2, size: int = 48) -> Network:
    """Returns a segmenter as GluonCV's DeepLabV3+ is made, with the class of each pixel as a second output."""
    return from_gluon(_DeepLab(classes=5, size=size), {"data": (batch, 3, size, size)})


class _Pose(gluon.HybridBlock):  # type: ignore[misc]
    """A trunk, three deconvolutions, and heat maps; the place of each joint is where its map is largest."""

    def __init__(self, joints: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._joints = joints
        self.maps = nn.HybridSequential()
        self.maps.add(_unit(8, 7, stride=2), nn.MaxPool2D(3, 2, 1), _unit(16, stride=2), _unit(32, stride=2))
        for _ in range(3):
            self.maps.add(nn.Conv2DTranspose(16, 4, 2, 1, use_bias=False), nn.BatchNorm(), nn.Activation("relu"))
        self.maps.add(nn.Conv2D(joints, 1))

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        maps = self.maps(x)
        flat = F.reshape(maps, (0, 0, -1))
        return [maps, F.argmax(flat, axis=2), F.max(flat, axis=2)]


def pose(batch: int = 2) -> Network:
    """Returns a network as GluonCV's SimplePose is made."""
    return from_gluon(_Pose(joints=17), {"data": (batch, 3, 64, 48)})


def dcgan(batch: int = 2) -> Network:
    """Returns the generator of DCGAN: images out of noise by deconvolutions."""
    net = nn.HybridSequential()
    for channels, stride, padding in ((32, 1, 0), (16, 2, 1), (8, 2, 1)):
        net.add(nn.Conv2DTranspose(channels, 4, stride, padding, use_bias=False), nn.BatchNorm())
        net.add(nn.Activation("relu"))
    net.add(nn.Conv2DTranspose(3, 4, 2, 1, use_bias=False), nn.Activation("tanh"))
    return from_gluon(net, {"data": (batch, 24, 1, 1)})


def video(batch: int = 1) -> Network:
    """Returns a classifier of short videos as C3D is made."""
    net = nn.HybridSequential()
    for channels, pool in ((8, (1, 2, 2)), (16, (2, 2, 2)), (24, (2, 2, 2))):
        net.add(nn.Conv3D(channels, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"))
        net.add(nn.MaxPool3D(pool, pool))
    net.add(nn.Flatten(), nn.Dense(32, activation="relu"), nn.Dropout(0.5), nn.Dense(10))
    return from_gluon(net, {"data": (batch, 3, 8, 32, 32)})
