"""Random rows of every operator: MXNet alone and the plugin agree, or the plugin says why the node is not taken."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase

from mxnet_trt_property import backend
from mxnet_trt_property.infer import known_shape
from tests.harness import Row, all_arrays, all_strategies, compare, plugin_outputs, semantics, stock_outputs

STRATEGIES = all_strategies()
EVERYDAY = 4
CI = 25

# Fewer examples than this may all be refused by chance.
ENOUGH = 20


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives few examples to every run, more to the slow one, or as many as the command line asks for."""
    if "examples" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--random-examples")
        counts = [asked] if asked else [EVERYDAY, pytest.param(CI, marks=pytest.mark.slow)]
        metafunc.parametrize("examples", counts)


@pytest.mark.parametrize("operator", sorted(STRATEGIES))
def test_random(operator: str, examples: int, pytestconfig: pytest.Config) -> None:
    """Health checks fail a strategy that draws almost only what MXNet rejects."""
    settings = hypothesis.settings(
        max_examples=examples,
        # The same rows each time, unless more are asked for: then hypothesis prints the seed of a failure.
        derandomize=not pytestconfig.getoption("--random-examples"),
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.generate, Phase.shrink],
    )
    outcomes: Counter[str] = Counter()

    @settings
    @hypothesis.given(STRATEGIES[operator])
    def holds(row: Row) -> None:
        outcomes[check(row)] += 1

    holds()
    assert examples < ENOUGH or outcomes["taken"], f"every row was refused: {outcomes}"


def check(row: Row) -> str:
    """Compares one row and returns "taken" or "refused"."""
    try:
        with warnings.catch_warnings():
            # MXNet warns of shapes that it cannot infer before it gives up.
            warnings.simplefilter("ignore")
            symbol = row.build()
            arrays = all_arrays(symbol, row.shapes, row.dtypes, row.fills)
            if not has_elements(symbol, row):
                hypothesis.reject()
            expected = stock_outputs(symbol, arrays)
    except RuntimeError:  # MXNetError is one, and so is what simple_bind raises
        hypothesis.reject()
    # Hypothesis prints the row of a failure; a build that is a lambda tells nothing there.
    hypothesis.note(symbol.debug_str())
    found, report = plugin_outputs(symbol, arrays)
    compare(found, expected, rtol=row.rtol, atol=row.atol)
    if not report.refused:
        return "taken"
    assert_reasons(symbol, arrays)
    return "refused"


def has_elements(symbol: Any, row: Row) -> bool:
    """Whether each output has some: MXNet's operators fail on an empty one, at some later operation of the process."""
    arguments = symbol.list_arguments()
    with semantics(symbol):
        _, outputs, _ = symbol.infer_shape(**{k: v for k, v in row.shapes.items() if k in arguments})
        shapes = [known_shape(shape) for shape in outputs]
    return all(shape is not None and 0 not in shape for shape in shapes)


def assert_reasons(symbol: Any, arrays: Any) -> None:
    """Asserts that a reason is given for each node that stays with MXNet."""
    shapes = {name: value.shape for name, value in arrays.items()}
    with semantics(symbol):
        decisions = backend.decide(symbol, shapes, {name: value.dtype for name, value in arrays.items()})
    for decision in decisions.refused:
        assert decision.reason
        # A converter that raises is a fault that the partition survives, not a reason.
        assert "the conversion of" not in decision.reason, decision.reason
