"""docs/operators.md, from the registry and the rows: `python -m tests.operators.table > docs/operators.md`."""

from __future__ import annotations

import dataclasses
import sys
from collections import defaultdict

from mxnet_trt_property import operators
from mxnet_trt_property.operators.registry import Operator, Parameters
from tests.harness import Refusal, Row, all_rows, refusals

_HEAD = """\
# Operators

Written by `python -m tests.operators.table` from the registry and the tests; do not edit.

A node whose operator is listed is taken unless its entry refuses it; `mxnet-trt explain` names the reason for
each node that is left to MXNet. Each operator is compared with MXNet in ONNX Runtime, with rows of its own and with
random ones, and each of the {rows} rows is built by TensorRT for RTX{exceptions}.

Weights are the inputs that become constants of the engine; where other code writes them later, the engine
follows. Inputs that are not read are only looked at for their shape, or not at all (labels). Dtypes are those of the
inputs that are read. 0-d arrays, which only NumPy's semantics have, are taken where the table says so. "Conditions"
marks the operators that [may be refused](#what-is-refused) for more than their dtypes and shapes.

| Operator | Parameters that are read | Weights | Not read | Dtypes | 0-d | Conditions |
|---|---|---|---|---|---|---|
"""

_REFUSED = """
## What is refused

Refused are, of every operator: inputs of another dtype than the table names; results of another dtype than float32,
float16, int32, int64 and bool; axes of size 0; a parameter that the table does not name, if it matters at inference.
An operator with conditions on shapes is refused while its shapes are unknown. What else is refused, with an example
of what is found, as the tests have it:

"""


# How the reasons begin that the text above tells of all operators.
_RULES = ("dtype of input", "dtype of output ", "shape of input")


def render() -> str:
    """Returns the text of docs/operators.md."""
    rows: list[Row] = all_rows("ACCEPTED")
    unbuilt = [f"{row} ({row.engine})" for row in rows if row.engine]
    exceptions = " but " + ", ".join(unbuilt) if unbuilt else ""
    entries = operators.all_operators()
    return (
        _HEAD.format(rows=len(rows), exceptions=exceptions)
        + "".join(_row(entry) for entry in entries)
        + _REFUSED
        + "".join(_conditions(entries))
    )


def _row(entry: Operator) -> str:
    cells = (
        f"`{entry.name}`",
        _parameters(entry.parameters),
        _slots(entry.weights),
        _slots(entry.ignored),
        ", ".join(dtype.name for dtype in entry.dtypes),
        "yes" if entry.zero_dim else "",
        "yes" if entry.is_conditional else "",
    )
    return "| " + " | ".join(cells) + " |\n"


def _parameters(record: type[Parameters]) -> str:
    return ", ".join(f"`{field.name}`" for field in dataclasses.fields(record))


def _slots(slots: tuple[int, ...]) -> str:
    return ", ".join(str(slot) for slot in slots)


def _conditions(entries: tuple[Operator, ...]) -> list[str]:
    """Returns a list of the operators that are refused for the same reasons, and of the reasons."""
    reasons: dict[str, list[str]] = defaultdict(list)
    shared: dict[object, list[str]] = defaultdict(list)
    row: Refusal
    for row in all_rows("REFUSED"):
        entry = operators.find(row.operator)
        text = next(text for text in refusals(row) if row.reason in text)
        if entry is not None and not text.startswith(_RULES) and "unknown" not in text:
            # What an operator shares its check with is refused alike; only dtypes may be the operator's own.
            found = reasons[entry.name] if text.startswith("dtype") else shared[entry.check]
            # One example of each condition is enough.
            if not any(_condition(text) == _condition(other) for other in found):
                found.append(text)
    names: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for entry in entries:
        found = reasons[entry.name] + (shared[entry.check] if entry.is_conditional else [])
        if found:
            names[tuple(found)].append(f"`{entry.name}`")
    return [f"- {', '.join(group)}\n" + "".join(f"  - {text}\n" for text in texts) for texts, group in names.items()]


def _condition(text: str) -> tuple[str, str]:
    """Returns a reason without what was found."""
    return text.partition(": found ")[0], text.partition(", required ")[2]


if __name__ == "__main__":
    sys.stdout.write(render())
