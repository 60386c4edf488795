"""docs/operators.md, written from the registry: `python -m mxnet_trt_property.operators.table > docs/operators.md`."""

from __future__ import annotations

import dataclasses
import sys

from mxnet_trt_property import operators
from mxnet_trt_property.operators.registry import Operator, Parameters

_HEAD = """\
# Operators

Generated from the registry by `python -m mxnet_trt_property.operators.table`; do not edit.

A node whose operator is listed is taken unless its entry refuses it; `mxnet-trt explain` names the reason for
each node that is left to MXNet. "May be refused" marks the operators that have conditions beyond the dtype.
Weights are the inputs that become constants of the engine; where other code writes them later, the engine
follows. Inputs that are not read are only looked at for their shape, or not at all (labels).

| Operator | Family | Parameters that are read | Weights | Not read | Dtypes | May be refused |
|---|---|---|---|---|---|---|
"""


def render() -> str:
    """Returns the text of docs/operators.md."""
    return _HEAD + "".join(_row(entry) for entry in operators.all_operators())


def _row(entry: Operator) -> str:
    cells = (
        f"`{entry.name}`",
        entry.emit.__module__.rsplit(".", 1)[-1],
        _parameters(entry.parameters),
        _slots(entry.weights),
        _slots(entry.ignored),
        ", ".join(dtype.name for dtype in entry.dtypes),
        "yes" if entry.is_conditional else "",
    )
    return "| " + " | ".join(cells) + " |\n"


def _parameters(record: type[Parameters]) -> str:
    return ", ".join(f"`{field.name}`" for field in dataclasses.fields(record))


def _slots(slots: tuple[int, ...]) -> str:
    return ", ".join(str(slot) for slot in slots)


if __name__ == "__main__":
    sys.stdout.write(render())
