"""What the rewrite of a model in another precision needs to know: plain data, kept in the file of a compiled model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mxnet_trt_property.engines.registry import IMPLEMENTED_PRECISIONS
from mxnet_trt_property.precision.tables import checked


class Plan(NamedTuple):
    """What the rewrite of a model needs to know besides the model.

    Attributes:
        kind: One of IMPLEMENTED_PRECISIONS.
        keep: MXNet's nodes (by name) and operators that stay in float32.
        near: ONNX nodes (by name) that stay in float32, as a run on sample inputs showed.
        ranges: With int8, the range of each value that is quantized, by its ONNX name.
    """

    kind: str
    keep: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = {}

    def as_json(self) -> dict[str, Any]:
        """Returns the plan as JSON values."""
        return {**self._asdict(), "ranges": dict(self.ranges)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Returns the plan of `as_json`.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: The values are not those of a plan.
        """
        if data["kind"] not in IMPLEMENTED_PRECISIONS:
            raise ValueError(f"precision {data['kind']!r}")
        ranges = {str(k): (float(low), float(high)) for k, (low, high) in data["ranges"].items()}
        keep, near = (tuple(str(name) for name in data[key]) for key in ("keep", "near"))
        return cls(str(data["kind"]), keep, near, checked(ranges))
