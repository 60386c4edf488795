"""docs/operators.md is what the registry and the rows say."""

from __future__ import annotations

from pathlib import Path

from mxnet_trt_property import operators
from tests.operators import table

DOCUMENT = Path(__file__).parents[2] / "docs" / "operators.md"


def test_document_is_not_stale() -> None:
    """Written anew with `python -m tests.operators.table > docs/operators.md`."""
    assert DOCUMENT.read_text(encoding="utf-8") == table.render()


def test_every_operator_has_a_row() -> None:
    """One line each, below the head."""
    lines = table.render().splitlines()
    assert [line.split("`")[1] for line in lines if line.startswith("| `")] == [
        e.name for e in operators.all_operators()
    ]
