"""Gives the tests of rows.py the cases of each family's module."""

from __future__ import annotations

import pytest

from tests.operators import rows

CASES = {rows.test_accepted: "ACCEPTED", rows.test_refused: "REFUSED"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs an imported test once for each case of the importing module, which must have the list."""
    if metafunc.function in CASES:
        metafunc.parametrize("row", getattr(metafunc.module, CASES[metafunc.function]), ids=str)
