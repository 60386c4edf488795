"""The sizes of a compiled model that serves a range of them: which a call has, and the shapes that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from mxnet_trt_property import sizes
from mxnet_trt_property.compiled_arrays import ArrayError, Tensor
from mxnet_trt_property.engines.registry import Shapes
from mxnet_trt_property.errors import message
from mxnet_trt_property.sizes import Formula, Point, Range

if TYPE_CHECKING:  # a loaded model needs no onnx
    from mxnet_trt_property.generalize import Template

_KEPT = 64


class Fit(NamedTuple):
    """What a call's arrays must be.

    Attributes:
        inputs: The inputs with their shapes.
        outputs: The outputs with theirs.
        shapes: Those shapes, for the runner; None where the model has fixed ones.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    shapes: Optional[Shapes]


def to_meta(template: Template) -> dict[str, Any]:
    """Returns what a compiled model's file says of its sizes, as JSON values."""
    return {"ranges": template.ranges, "inputs": template.inputs, "outputs": template.outputs}


class Sizes:
    """The ranges of a compiled model.

    Args:
        meta: What `to_meta` returned, maybe by way of JSON.
        inputs: The inputs, with the shapes that the engine is tuned for.
        outputs: The outputs at those.

    Raises:
        KeyError, TypeError, ValueError: The description cannot be read.
    """

    def __init__(self, meta: Mapping[str, Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self._ranges = tuple(Range(*(int(n) for n in r)) for r in meta["ranges"])
        self._formulas = [
            [tuple(Formula(int(f[0]), tuple(int(i) for i in f[1]), int(f[2])) for f in shape) for shape in meta[key]]
            for key in ("inputs", "outputs")
        ]
        self._tensors = (tuple(inputs), tuple(outputs))
        if [len(shapes) for shapes in self._formulas] != [len(tensors) for tensors in self._tensors]:
            raise ValueError("sizes of another number of inputs or outputs than the model has")
        self._known: dict[tuple[tuple[int, ...], ...], Fit] = {}
        self.tuned = self._fit(tuple(r.tuned for r in self._ranges))

    @property
    def profile(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """For each input its smallest shape, the one that the engine is tuned for, and its largest."""
        points = list(zip(*self._ranges))
        return tuple(tuple(tuple(f.at(p) for f in shape) for p in points) for shape in self._formulas[0])

    def fit(self, arrays: Sequence[Any], label: str) -> Fit:
        """Returns what follows from the shapes of a call's arrays.

        Raises:
            ArrayError: They are outside of the range, or contradict each other.
        """
        shapes = tuple(tuple(int(n) for n in getattr(array, "shape", ())) for array in arrays)
        found = self._known.get(shapes)
        if found is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            found = self._known[shapes] = self._solve(shapes, label)
        return found

    def _solve(self, shapes: Sequence[tuple[int, ...]], label: str) -> Fit:
        known: dict[int, int] = {}
        fits = all(sizes.solve(s, formulas, known) for s, formulas in zip(shapes, self._formulas[0]))
        point = tuple(known.get(i, r.smallest) for i, r in enumerate(self._ranges))
        found = self._fit(point)
        in_range = all(r.smallest <= n <= r.largest for n, r in zip(point, self._ranges))
        if not (fits and in_range) or [t.shape for t in found.inputs] != list(shapes):
            rows = zip(self._tensors[0], self.profile)
            raise ArrayError(
                message(
                    f"{label} was called with arrays of shapes that it was not compiled for",
                    found=", ".join(f"{t.name} {shape}" for t, shape in zip(self._tensors[0], shapes)),
                    required=", ".join(f"{t.name} {low} to {high}" for t, (low, _, high) in rows),
                    next_step="compile it with profiles= that include these shapes",
                )
            )
        return found

    def _fit(self, point: Point) -> Fit:
        inputs, outputs = (
            tuple(t._replace(shape=tuple(f.at(point) for f in shape)) for t, shape in zip(tensors, formulas))
            for tensors, formulas in zip(self._tensors, self._formulas)
        )
        return Fit(inputs, outputs, Shapes(tuple(t.shape for t in inputs), tuple(t.shape for t in outputs)))
