"""One compiled network with its arrays and MXNet's own output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mxnet_trt_property.compiled import CompiledModel
from tests.compiled.nets import SHAPE, compile_net, reference
from tests.symbols import mlp, random_arrays


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    return random_arrays(mlp(), {"data": SHAPE})


@pytest.fixture
def model(arrays: dict[str, Any]) -> Iterator[CompiledModel]:
    with compile_net(mlp(), arrays, "data") as made:
        yield made


@pytest.fixture(scope="module")
def expected(arrays: dict[str, Any]) -> Any:
    return reference(mlp(), arrays)[0]
