"""Every accepted row parses and builds as a TensorRT engine, which needs no GPU."""

from __future__ import annotations

import pytest

from tests.harness import Row, all_rows, build_engine, row_model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("row", all_rows("ACCEPTED"), ids=str)
def test_engine_builds(row: Row) -> None:
    """A row that no engine can be built for says so in `engine`, and then must not build."""
    pytest.importorskip("tensorrt_rtx")
    model = row_model(row)
    if not row.engine:
        build_engine(model)
        return
    with pytest.raises(AssertionError):
        build_engine(model)
