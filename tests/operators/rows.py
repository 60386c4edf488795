"""The two tests of every family of operators; conftest.py gives them the cases of the module that imports them."""

from __future__ import annotations

from tests.harness import Refusal, Row, assert_refused, assert_row


def test_accepted(row: Row) -> None:
    """The node is taken and equals MXNet."""
    assert_row(row)


def test_refused(row: Refusal) -> None:
    """The node is left to MXNet, and the reason says why."""
    assert_refused(row)
