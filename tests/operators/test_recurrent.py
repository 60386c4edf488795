"""RNN alone, and the layers and cells of mx.gluon.rnn and mx.rnn that are made of it."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.harness import Refusal, Row, all_arrays, compare, mx, stock_outputs
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, optional, shapes
from tests.symbols import backend

S = mx.sym
X = S.var("x")

SEQUENCE = {"x": (5, 2, 3)}
BATCH_FIRST = {"x": (2, 5, 3)}


def _rnn(mode, **parameters):
    def build():
        states = [S.var("state")] + ([S.var("cell")] if mode == "lstm" else [])
        return S.RNN(X, S.var("packed"), *states, mode=mode, **{"state_size": 4, "num_layers": 1, **parameters})

    return build


def _sequence_length():
    inputs = [S.var(name) for name in ("packed", "state", "cell", "lengths")]
    return S.RNN(X, *inputs, mode="lstm", state_size=4, num_layers=1, use_sequence_length=True)


def _layer(kind, *arguments, **parameters):
    return lambda: getattr(mx.gluon.rnn, kind)(*arguments, prefix="layer_", **parameters)(X)


def _layer_with_states():
    layer = mx.gluon.rnn.LSTM(4, 2, prefix="layer_")
    output, states = layer(X, [S.var("y"), S.var("z")])
    return S.Group([output, *states])


def _unrolled(cell, layout="NTC"):
    def build():
        output, states = cell().unroll(5, X, layout=layout, merge_outputs=True)
        return S.Group([output, *states])

    return build


def _row(name, build, shapes=SEQUENCE, operator="RNN"):
    # Sums of products over the steps, in another order than MXNet's.
    return Row(operator, name, build, shapes, 1e-5, 1e-5)


ACCEPTED = [
    _row(f"{mode}_{name}", _rnn(mode, **parameters))
    for mode in ("rnn_relu", "rnn_tanh", "lstm", "gru")
    for name, parameters in [
        ("plain", {}),
        ("states", {"state_outputs": True}),
        ("two_ways", {"bidirectional": True, "state_outputs": True}),
        ("three_layers", {"num_layers": 3, "state_outputs": True, "p": 0.5}),
        ("layers_and_ways", {"num_layers": 2, "bidirectional": True, "state_outputs": True}),
    ]
]
ACCEPTED += [
    _row("one_step", _rnn("lstm", num_layers=2, state_outputs=True), {"x": (1, 1, 1)}),
    _row("one_unit", _rnn("gru", state_size=1, bidirectional=True), {"x": (3, 1, 7)}),
    _row("between_others", lambda: S.exp(_rnn("gru")()) + 1),
    _row("gluon_lstm", _layer("LSTM", 4, 2, bidirectional=True)),
    _row("gluon_gru", _layer("GRU", 4, 2, layout="NTC", dropout=0.5), BATCH_FIRST),
    _row("gluon_rnn", _layer("RNN", 4, activation="tanh")),
    _row("gluon_states", _layer_with_states, {**SEQUENCE, "y": (2, 2, 4), "z": (2, 2, 4)}),
    _row("gluon_concat", _layer("LSTM", 4), operator="_rnn_param_concat"),
    _row(
        "second_axis",
        lambda: S._internal._rnn_param_concat(X, S.var("y"), dim=1, num_args=2),
        {"x": (2, 3), "y": (2, 4)},
        "_rnn_param_concat",
    ),
    *(
        _row(f"fused_{mode}", _unrolled(lambda m=mode: mx.rnn.FusedRNNCell(4, 2, m, get_next_state=True), "TNC"))
        for mode in ("rnn_relu", "rnn_tanh", "lstm", "gru")
    ),
    _row("cell_lstm", _unrolled(lambda: mx.rnn.LSTMCell(4)), BATCH_FIRST, "SliceChannel"),
    _row("cell_gru", _unrolled(lambda: mx.rnn.GRUCell(4)), BATCH_FIRST, "SliceChannel"),
    _row("gluon_cell_lstm", _unrolled(lambda: mx.gluon.rnn.LSTMCell(4, prefix="c_")), BATCH_FIRST, "SliceChannel"),
    _row("gluon_cell_gru", _unrolled(lambda: mx.gluon.rnn.GRUCell(4, prefix="c_")), BATCH_FIRST, "SliceChannel"),
]

REFUSED = [
    Refusal("RNN", "sequence_length", _sequence_length, SEQUENCE, "use_sequence_length: found True, required False"),
    Refusal("RNN", "projection", _rnn("lstm", projection_size=2), SEQUENCE, "projection_size: found 2, required None"),
    Refusal(
        "RNN",
        "clipped",
        _rnn("lstm", lstm_state_clip_min=-1, lstm_state_clip_max=1),
        SEQUENCE,
        "lstm_state_clip: found -1.0 to 1.0, required None",
    ),
    Refusal("RNN", "unknown_shape", _rnn("gru"), {}, "input size: found an unknown shape"),
    Refusal(
        "RNN", "float16", _rnn("gru"), SEQUENCE, "dtype of input 0: found float16, required float32", {"x": "float16"}
    ),
]


def test_new_weights_are_seen() -> None:
    """The parameters are constants of the engine by way of the nodes that pack them, and are watched for new values."""
    symbol = _layer("LSTM", 4, 2)()
    arrays = all_arrays(symbol, SEQUENCE)
    changed = {name: value if name == "x" else value * 0.5 for name, value in arrays.items()}
    with backend("TensorRT", MXNET_TENSORRT_ENGINE="onnxruntime", MXNET_TENSORRT_ON_ERROR="raise"):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **SEQUENCE)
        for given in (arrays, changed):
            for name, value in given.items():
                executor.arg_dict[name][:] = value
            outputs = [output.asnumpy() for output in executor.forward()]
            compare(outputs, stock_outputs(symbol, given), rtol=1e-5, atol=1e-5)
    assert executor.tensorrt.made.decisions.subgraph_count == 1


# Without projections, some of which crash MXNet.
@st.composite
def _rnn_rows(draw: st.DrawFn) -> Row:
    mode = draw(st.sampled_from(["rnn_relu", "rnn_tanh", "lstm", "gru"]))
    parameters = optional(
        draw,
        bidirectional=st.booleans(),
        state_outputs=st.booleans(),
        p=st.sampled_from([0.0, 0.3]),
    )
    size, layers = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    inputs = ["x", "packed", "state"] + ["cell"] * (mode == "lstm")
    call = Call("RNN", *inputs, mode=mode, state_size=size, num_layers=layers, **parameters)
    return _row("random", call, {"x": draw(shapes(3, 3))})


@st.composite
def _param_concat_rows(draw: st.DrawFn) -> Row:
    first, second = draw(shapes(1, 2)), draw(shapes(1, 1))
    # Parts that do not match are MXNet's to reject.
    second = (*first[:-1], second[0])
    call = Call("_rnn_param_concat", "x", "y", dim=draw(st.sampled_from([len(first) - 1, -1, 0])), num_args=2)
    return _row("random", call, {"x": first, "y": second}, "_rnn_param_concat")


STRATEGIES: dict[str, SearchStrategy[Row]] = {"RNN": _rnn_rows(), "_rnn_param_concat": _param_concat_rows()}
