"""Recurrent layers: RNN with its packed parameters, and the concatenation that packs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason


@dataclass(frozen=True)
class ParamConcatParameters(Parameters):
    """Parameters of _rnn_param_concat, a Concat that infers missing sizes backwards."""

    num_args: int
    dim: int = 1


@operator("_rnn_param_concat", parameters=ParamConcatParameters, folds=True)
def _rnn_param_concat(
    params: ParamConcatParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    return [w.node("Concat", inputs, axis=params.dim)]


@dataclass(frozen=True)
class RNNParameters(Parameters):
    """Parameters of RNN; `p` is a dropout, which inference skips, and a NaN is clipped with a range only."""

    IGNORED = Parameters.IGNORED | {"p", "lstm_state_clip_nan"}

    state_size: int
    num_layers: int
    mode: str
    bidirectional: bool = False
    state_outputs: bool = False
    projection_size: Optional[int] = None
    lstm_state_clip_min: Optional[float] = None
    lstm_state_clip_max: Optional[float] = None
    use_sequence_length: bool = False

    @property
    def directions(self) -> int:
        """How many directions a layer has."""
        return 2 if self.bidirectional else 1


class _Mode(NamedTuple):
    """How ONNX says a mode: `gates` lists MXNet's gates in ONNX's order."""

    op_type: str
    gates: tuple[int, ...]
    activation: Optional[str] = None


# MXNet has cuDNN's order: input, forget, cell, output for LSTM and reset, update, new for GRU. ONNX wants
# input, output, forget, cell and update, reset, hidden.
_MODES = {
    "rnn_relu": _Mode("RNN", (0,), "Relu"),
    "rnn_tanh": _Mode("RNN", (0,), "Tanh"),
    "lstm": _Mode("LSTM", (0, 3, 1, 2)),
    "gru": _Mode("GRU", (1, 0, 2)),
}


def _check_rnn(params: RNNParameters, node: NodeInfo) -> Optional[str]:
    if params.use_sequence_length:
        return reason("use_sequence_length", found=True, required="False, as MXNet has it in cuDNN only")
    if params.projection_size is not None:
        return reason("projection_size", found=params.projection_size, required="None, as ONNX has no projection")
    if params.lstm_state_clip_min is not None or params.lstm_state_clip_max is not None:
        found = f"{params.lstm_state_clip_min} to {params.lstm_state_clip_max}"
        return reason("lstm_state_clip", found=found, required="None, as ONNX clips gates and no states")
    if node.inputs[0].shape is None:
        return needs_shape("input size")
    return None


class _Packed:
    """Cuts the packed parameters into ONNX's W, R and B of a layer.

    All weights come first, by layer, direction, and then what meets the input before what meets the state; the
    biases follow in the same order. Each is (gates * state_size, columns).
    """

    def __init__(self, packed: str, params: RNNParameters, w: OnnxWriter) -> None:
        self._packed, self._state_size, self._w = packed, params.state_size, w
        self._gates = _MODES[params.mode].gates
        self._offset = 0

    def take(self, columns: int) -> str:
        """Returns the next matrix in ONNX's order of gates, with an axis of one direction in front."""
        w, gates = self._w, len(self._gates)
        size = gates * self._state_size * columns
        part = w.slice(self._packed, (0,), (self._offset,), (self._offset + size,), (1,))
        self._offset += size
        if gates > 1:
            rows = w.reshape(part, (gates, self._state_size * columns))
            part = w.node("Gather", [rows, w.ints(self._gates)], axis=0)
        return w.reshape(part, (1, gates * self._state_size, columns))

    def layers(self, params: RNNParameters, input_size: int) -> Iterator[tuple[str, str, str]]:
        """Yields W, R and B of each layer."""
        w, directions = self._w, range(params.directions)
        sizes = [input_size] + [params.state_size * params.directions] * (params.num_layers - 1)
        matrices = [[(self.take(size), self.take(params.state_size)) for _ in directions] for size in sizes]
        width = len(self._gates) * self._state_size
        for layer in matrices:
            biases = [self.take(1) for _ in range(2 * params.directions)]
            bias = w.reshape(w.node("Concat", biases, axis=1), (params.directions, 2 * width))
            both = [w.node("Concat", parts, axis=0) if len(parts) > 1 else parts[0] for parts in zip(*layer)]
            yield both[0], both[1], bias


# MXNet's CPU has these for float32 only.
@operator("RNN", parameters=RNNParameters, check=_check_rnn, weights=(1,), dtypes=(FLOAT32,))
def _rnn(params: RNNParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    data, packed, *states = inputs
    mode, directions = _MODES[params.mode], params.directions
    length, batch, input_size = shape_of(node.inputs[0])
    finals: list[list[str]] = [[] for _ in states]
    for number, (weight, recurrence, bias) in enumerate(_Packed(packed, params, w).layers(params, input_size)):
        first = number * directions
        begins = [
            w.slice(state, (0,), (first,), (first + directions,), (1,)) if params.num_layers > 1 else state
            for state in states
        ]
        # The fifth input is the lengths of the sequences.
        result = w.nodes(
            mode.op_type,
            [data, weight, recurrence, bias, "", *begins],
            1 + len(states),
            hidden_size=params.state_size,
            direction="bidirectional" if params.bidirectional else "forward",
            activations=[mode.activation] * directions if mode.activation else None,
            # The reset gate meets the state after its product and bias, as in cuDNN.
            linear_before_reset=1 if params.mode == "gru" else None,
        )
        # ONNX keeps the directions apart, MXNet has them side by side in the last axis.
        data = w.reshape(w.transpose(result[0], (0, 2, 1, 3)), (length, batch, directions * params.state_size))
        for final, part in zip(finals, result[1:]):
            final.append(part)
    if not params.state_outputs:
        return [data]
    return [data, *(w.node("Concat", parts, axis=0) if len(parts) > 1 else parts[0] for parts in finals)]
