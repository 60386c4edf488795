"""Formulas of sizes, and the rewrite of a model: what is explained, refused, and computed when the model runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from mxnet_trt_property import ranges, settings, sizes
from mxnet_trt_property.convert import convert, variable_roles
from mxnet_trt_property.generalize import NotGeneralError, Template, generalize
from mxnet_trt_property.infer import read_symbol
from mxnet_trt_property.sizes import Formula, Range
from tests.harness import mx

POINTS = [(12, 7), (1, 2), (2, 4), (6, 7), (1, 4), (12, 4)]


@pytest.mark.parametrize(
    ("formula", "function"),
    [
        (Formula(0, (), 5), lambda n, t: 5),
        (Formula(1, (0,), 0), lambda n, t: n),
        (Formula(3, (1,), -2), lambda n, t: 3 * t - 2),
        (Formula(8, (0, 1), 0), lambda n, t: 8 * n * t),
        (Formula(-1, (1,), 20), lambda n, t: 20 - t),
    ],
)
def test_explained(formula: Formula, function: Any) -> None:
    found = sizes.explain([function(*p) for p in POINTS], POINTS)
    assert found == formula
    assert all(found.at(p) == function(*p) for p in [(3, 5), (11, 6)])


@pytest.mark.parametrize(
    "function", [lambda n, t: n // 2, lambda n, t: min(n, 6), lambda n, t: n + t, lambda n, t: n * n]
)
def test_not_explained(function: Any) -> None:
    assert sizes.explain([function(*p) for p in POINTS], POINTS) is None


@pytest.mark.parametrize(
    "function", [lambda n: (n - 1) // 2 + 1, lambda n: min(n, 20), lambda n: max(n, 3), lambda n: n**2]
)
@pytest.mark.parametrize("largest", [9, 32, 33])
def test_samples_show_a_bend(function: Any, largest: int) -> None:
    points = sizes.samples([Range(1, largest, largest)])
    found = sizes.explain([function(*p) for p in points], points)
    if found is not None:  # the bend is outside of the range
        assert all(found.at((n,)) == function(n) for n in range(1, largest + 1))


def test_spread() -> None:
    assert sizes.spread([Range(2, 3, 4), Range(1, 1, 2)], 10) == [(2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 2)]
    some = sizes.spread([Range(1, 8, 32), Range(1, 64, 512)], 20)
    assert len(set(some)) == 20
    assert {some[0], some[-1]} == {(1, 1), (32, 512)}


def template(symbol: Any, shapes: dict[str, tuple[int, ...]], **options: str) -> Template:
    """Returns the model of a symbol without weights over a range."""
    names = symbol.list_arguments()
    flexible = ranges.find(symbol, shapes, dict.fromkeys(names, "float32"), settings.read(options), set(shapes))
    assert flexible is not None
    graph = read_symbol(symbol)
    roles = variable_roles(graph, lambda node: False)
    models = [convert(graph, tensors, roles, "the network") for tensors in flexible.tensors]
    return generalize(models, flexible.points, flexible.ranges)


def run(found: Template, **arrays: Any) -> list[Any]:
    model = found.model.serialize({})
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, {port.name: arrays[name] for port, name in zip(found.model.inputs, sorted(arrays))}))


def reshapes(found: Template) -> list[list[int]]:
    graph = onnx.load_from_string(found.model.serialize({})).graph
    constants = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in graph.initializer}
    return [constants.get(n.input[1], ["computed"]) for n in graph.node if n.op_type == "Reshape"]


def test_one_varying_number_of_a_reshape_is_written_as_minus_one() -> None:
    symbol = mx.sym.reshape(mx.sym.transpose(mx.sym.var("x"), axes=(1, 0, 2)), shape=(-3, 0))
    found = template(symbol, {"x": (2, 3, 4)}, max_batch_size="8")
    assert reshapes(found) == [[-1, 4]]
    x = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
    assert np.array_equal(run(found, x=x)[0], x.transpose(1, 0, 2).reshape(15, 4))


def test_several_sizes_are_computed_from_the_input() -> None:
    profiles = "{'x': ((1, 2, 6), (4, 5, 6), (8, 9, 6))}"
    symbol = mx.sym.reshape(mx.sym.var("x"), shape=(0, 0, 2, 3)) * 2
    found = template(symbol, {"x": (2, 3, 6)}, profiles=profiles)
    assert found.ranges == (Range(1, 4, 8), Range(2, 5, 9))
    x = np.arange(7 * 4 * 6, dtype=np.float32).reshape(7, 4, 6)
    assert np.array_equal(run(found, x=x)[0], 2 * x.reshape(7, 4, 2, 3))
    assert found.point([(7, 4, 6)]) == ((7, 4), "")
    for shape in ((7, 4, 5), (9, 4, 6), (7, 1, 6), (7, 4)):
        point, why = found.point([shape])
        assert point is None
        assert str(shape) in why
        assert "(1, 2, 6) to (8, 9, 6)" in why


def test_a_loop_over_as_many_boxes_as_there_are() -> None:
    options = {"overlap_thresh": 0.5, "valid_thresh": 0.1, "coord_start": 2, "score_index": 1, "id_index": 0}
    symbol = mx.sym.contrib.box_nms(mx.sym.var("x"), **options)
    found = template(symbol, {"x": (1, 5, 6)}, profiles="{'x': ((1, 3, 6), (2, 5, 6), (4, 9, 6))}")
    rng = np.random.default_rng(0)
    for batch, count in ((1, 3), (3, 7), (4, 9)):
        corners = rng.random((batch, count, 2), dtype=np.float32)
        classes, scores = rng.integers(0, 2, (batch, count, 1)), rng.random((batch, count, 1))
        x = np.concatenate([classes, scores, corners, corners + 0.8], axis=2).astype("float32")
        assert np.allclose(run(found, x=x)[0], mx.nd.contrib.box_nms(mx.nd.array(x), **options).asnumpy())


def test_equal_ranges_of_two_inputs_are_one_size() -> None:
    profiles = "{'x': ((1, 2), (4, 2), (8, 2)), 'y': ((1, 3), (4, 3), (8, 3))}"
    found = template(
        mx.sym.concat(mx.sym.var("x"), mx.sym.var("y"), dim=1), {"x": (2, 2), "y": (2, 3)}, profiles=profiles
    )
    assert found.ranges == (Range(1, 4, 8),)
    assert found.point([(5, 2), (6, 3)])[0] is None
    assert found.point([(5, 2), (5, 3)]) == ((5,), "")


def test_axes_of_one_input_vary_on_their_own_unless_mxnet_ties_them() -> None:
    free = template(mx.sym.var("x") * 2, {"x": (3, 3)}, profiles="{'x': ((2, 2), (3, 3), (6, 6))}")
    assert free.point([(3, 5)]) == ((3, 5), "")
    squares = mx.sym.batch_dot(mx.sym.var("x"), mx.sym.var("x"))
    tied = template(squares, {"x": (1, 3, 3)}, profiles="{'x': ((1, 2, 2), (1, 3, 3), (1, 6, 6))}")
    assert tied.ranges == (Range(2, 3, 6),)
    assert tied.point([(1, 3, 5)])[0] is None


def test_a_model_that_is_wrong_between_the_samples_is_not_used() -> None:
    """Whatever formulas say, each size is compared with the network's own conversion."""
    symbol = mx.sym.broadcast_like(mx.sym.slice_axis(mx.sym.var("x"), axis=0, begin=0, end=1), mx.sym.var("x"))
    found = template(symbol, {"x": (2, 3)}, max_batch_size="8")
    graph = read_symbol(symbol)
    other = mx.sym.broadcast_like(mx.sym.slice_axis(mx.sym.var("x"), axis=0, begin=-1, end=None), mx.sym.var("x"))
    config = settings.read({"max_batch_size": "8"})
    for candidate, fits in ((symbol, True), (other, False)):
        flexible = ranges.find(candidate, {"x": (2, 3)}, {"x": "float32"}, config)
        assert flexible is not None
        graph = read_symbol(candidate)
        model = convert(graph, flexible.at((5,)), variable_roles(graph, lambda node: False))
        assert (found.misfit(model, (5,)) is None) == fits
        assert found.misfit(model, (4,)) is not None


def test_what_differs_is_named() -> None:
    with pytest.raises(NotGeneralError, match="node 'gone' .squeeze. is written as|output 0 has shapes"):
        template(mx.sym.squeeze(mx.sym.var("x"), name="gone"), {"x": (2, 3)}, max_batch_size="8")
    with pytest.raises(NotGeneralError, match="MXNet's inference refuses x"):
        template(mx.sym.elemwise_add(mx.sym.var("x"), mx.sym.ones((2, 3))), {"x": (2, 3)}, max_batch_size="8")
    with pytest.raises(NotGeneralError, match="profile of input x has 1 axes, and its shape is"):
        template(mx.sym.var("x") * 2, {"x": (2, 3)}, profiles="{'x': ((1,), (2,), (3,))}")


def test_the_batch_is_the_axis_of_the_layout() -> None:
    data = mx.sym.var("x", __layout__="TNC")
    found = template(data * 2, {"x": (5, 2, 3)}, max_batch_size="4")
    assert found.profile == (((5, 1, 3), (5, 4, 3), (5, 4, 3)),)
