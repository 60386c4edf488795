"""Networks over sequences: text in images, BERT, one step of a translator, a language model, a forecaster."""

from __future__ import annotations

from typing import Any

from tests.harness import mx
from tests.models.build import Network, from_gluon

gluon, nn, rnn = mx.gluon, mx.gluon.nn, mx.gluon.rnn

WORDS = 50


def _tokens(rng: Any, shape: tuple[int, ...]) -> Any:
    """Returns indices of words."""
    return rng.randint(0, WORDS, shape)


def _lengths(rng: Any, shape: tuple[int, ...]) -> Any:
    """Returns lengths of sequences, between 2 and 6."""
    return rng.randint(2, 7, shape)


class _Crnn(gluon.HybridBlock):  # type: ignore[misc]
    """A convolutional recurrent network: the columns of an image's features are a sequence for an LSTM."""

    def __init__(self, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = nn.HybridSequential()
        for channels, pool in ((8, (2, 2)), (16, (2, 2)), (24, (2, 1)), (24, (2, 1))):
            self.features.add(nn.Conv2D(channels, 3, padding=1, use_bias=False), nn.BatchNorm())
            self.features.add(nn.Activation("relu"), nn.MaxPool2D(pool, pool))
        self.columns = nn.Conv2D(32, (2, 1))
        self.lstm = rnn.LSTM(16, num_layers=2, bidirectional=True)
        self.scores = nn.Dense(classes, flatten=False)

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803  (Gluon's own name)
        columns = F.squeeze(self.columns(self.features(x)), axis=2)
        scores = self.scores(self.lstm(F.transpose(columns, axes=(2, 0, 1))))
        return F.log_softmax(F.transpose(scores, axes=(1, 0, 2)), axis=-1)


def crnn(batch: int = 2) -> Network:
    """Returns a reader of one line of text."""
    return from_gluon(_Crnn(classes=20), {"data": (batch, 1, 32, 40)})


class _Attention(gluon.HybridBlock):  # type: ignore[misc]
    """Self-attention with the heads in the batch; `mask` is 1 where a word is to be seen."""

    def __init__(self, units: int, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._heads = heads
        for name in ("query", "key", "value", "project"):
            setattr(self, name, nn.Dense(units, flatten=False))

    def hybrid_forward(self, F: Any, x: Any, mask: Any) -> Any:  # noqa: N803
        sides = []
        for layer in (self.query, self.key, self.value):
            split = F.transpose(F.reshape(layer(x), (0, 0, self._heads, -1)), axes=(0, 2, 1, 3))
            sides.append(F.reshape(split, (-1, 0, 0), reverse=True))
        scores = F.batch_dot(F.contrib.div_sqrt_dim(sides[0]), sides[1], transpose_b=True)
        each_head = F.broadcast_axis(F.expand_dims(F.expand_dims(mask, axis=1), axis=1), axis=1, size=self._heads)
        seen = F.broadcast_like(F.reshape(each_head, (-1, 0, 0), reverse=True), scores, lhs_axes=(1,), rhs_axes=(1,))
        weights = F.softmax(F.where(seen, scores, F.ones_like(scores) * -1e18), axis=-1)
        weights = F.broadcast_mul(weights, seen)
        joined = F.reshape(F.batch_dot(weights, sides[2]), (-1, self._heads, 0, 0), reverse=True)
        return self.project(F.reshape(F.transpose(joined, axes=(0, 2, 1, 3)), (0, 0, -1)))


class _InterleavedAttention(gluon.HybridBlock):  # type: ignore[misc]
    """Self-attention by MXNet's operators for it: (length, batch, units), and one projection for all three sides."""

    def __init__(self, units: int, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._heads = heads
        self.sides = nn.Dense(3 * units, flatten=False)
        self.project = nn.Dense(units, flatten=False)

    def hybrid_forward(self, F: Any, x: Any, length: Any) -> Any:  # noqa: N803
        sides = self.sides(x)
        scores = F.contrib.interleaved_matmul_selfatt_qk(sides, heads=self._heads)
        # One length for each head of each sequence and each of its words.
        lengths = F.reshape(F.broadcast_axis(F.expand_dims(length, axis=1), axis=1, size=self._heads), (-1,))
        lengths = F.broadcast_like(F.expand_dims(lengths, axis=1), scores, lhs_axes=(1,), rhs_axes=(1,))
        weights = F.softmax(scores, F.cast(lengths, "int32"), use_length=True, axis=-1)
        return self.project(F.contrib.interleaved_matmul_selfatt_valatt(sides, weights, heads=self._heads))


class _Layer(gluon.HybridBlock):  # type: ignore[misc]
    """One layer of BERT: attention and a feed-forward network, each with a residual and a normalization behind."""

    def __init__(self, units: int, attention: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attention = attention
        self.wide = nn.Dense(4 * units, flatten=False)
        self.gelu = nn.GELU()
        self.narrow = nn.Dense(units, flatten=False)
        self.dropout = nn.Dropout(0.1)
        self.norm1, self.norm2 = nn.LayerNorm(epsilon=1e-12), nn.LayerNorm(epsilon=1e-12)

    def hybrid_forward(self, F: Any, x: Any, mask: Any) -> Any:  # noqa: N803
        x = self.norm1(x + self.dropout(self.attention(x, mask)))
        return self.norm2(x + self.dropout(self.narrow(self.gelu(self.wide(x)))))


class _Bert(gluon.HybridBlock):  # type: ignore[misc]
    """The encoder with its embeddings and pooler; outputs are the words' vectors and the first word's, pooled."""

    def __init__(self, units: int, heads: int, layers: int, longest: int, interleaved: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._interleaved = interleaved
        self.words = nn.Embedding(WORDS, units)
        self.segments = nn.Embedding(2, units)
        self.positions = self.params.get("positions", shape=(longest, units))
        self.norm = nn.LayerNorm(epsilon=1e-12)
        self.dropout = nn.Dropout(0.1)
        self.layers = nn.HybridSequential()
        for _ in range(layers):
            kind = _InterleavedAttention if interleaved else _Attention
            self.layers.add(_Layer(units, kind(units, heads)))
        self.pooler = nn.Dense(units, flatten=False, activation="tanh")

    def hybrid_forward(self, F: Any, words: Any, segments: Any, length: Any, positions: Any) -> Any:  # noqa: N803
        x = self.words(words) + self.segments(segments)
        steps = F.contrib.arange_like(words, axis=1)
        x = F.broadcast_add(x, F.expand_dims(F.Embedding(steps, positions, **self._positions()), axis=0))
        x = self.dropout(self.norm(x))
        if self._interleaved:
            mask, x = length, F.transpose(x, axes=(1, 0, 2))
        else:
            mask = F.broadcast_lesser(F.reshape(steps, (1, -1)), F.reshape(length, (-1, 1)))
        for layer in self.layers:
            x = layer(x, mask)
        if self._interleaved:
            x = F.transpose(x, axes=(1, 0, 2))
        return [x, self.pooler(F.reshape(F.slice_axis(x, axis=1, begin=0, end=1), (0, -1)))]

    def _positions(self) -> dict[str, int]:
        longest, units = self.positions.shape
        return {"input_dim": longest, "output_dim": units}


def bert(batch: int = 2, length: int = 7, *, interleaved: bool = False) -> Network:
    """Returns a BERT encoder of two layers, as GluonNLP makes it."""
    net = _Bert(units=16, heads=4, layers=2, longest=12, interleaved=interleaved)
    shapes = {"words": (batch, length), "segments": (batch, length), "length": (batch,)}
    fills = {"words": _tokens, "segments": lambda rng, shape: rng.randint(0, 2, shape), "length": _lengths}
    return from_gluon(net, shapes, fills)


def bert_interleaved() -> Network:
    """Returns the same with the operators that MXNet has for attention."""
    return bert(interleaved=True)


class _AttentionStep(gluon.HybridBlock):  # type: ignore[misc]
    """One word of a translation: an LSTM cell, attention over the encoder's memory, and the best next words."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words = nn.Embedding(WORDS, units)
        self.cell = rnn.LSTMCell(units, input_size=2 * units)
        self.key = nn.Dense(units, flatten=False, use_bias=False)
        self.combine = nn.Dense(units, activation="tanh", use_bias=False)
        self.scores = nn.Dense(WORDS)

    def hybrid_forward(self, F: Any, word: Any, hidden: Any, cell: Any, context: Any, memory: Any, length: Any) -> Any:  # noqa: N803
        output, states = self.cell(F.concat(self.words(word), context, dim=1), [hidden, cell])
        scores = F.batch_dot(self.key(memory), F.expand_dims(output, axis=2))
        scores = F.SequenceMask(scores, length, use_sequence_length=True, value=-1e18, axis=1)
        weights = F.softmax(scores, axis=1)
        context = F.reshape(F.batch_dot(weights, memory, transpose_a=True), (0, -1))
        context = self.combine(F.concat(context, output, dim=1))
        likely = F.log_softmax(self.scores(context), axis=-1)
        best = F.topk(likely, axis=1, k=5, ret_typ="both")
        return [likely, best[0], best[1], *states, context]


def attention_step(batch: int = 3) -> Network:
    """Returns one step of a decoder for beam search."""
    units, longest = 16, 7
    state = (batch, units)
    shapes = {"word": (batch,), "hidden": state, "cell": state, "context": state}
    shapes |= {"memory": (batch, longest, units), "length": (batch,)}
    return from_gluon(_AttentionStep(units), shapes, {"word": _tokens, "length": _lengths})


class _LanguageModel(gluon.HybridBlock):  # type: ignore[misc]
    """Embedding, a stack of LSTMs with their states, and a decoder that shares the embedding's weight."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words = nn.Embedding(WORDS, units)
        self.lstm = rnn.LSTM(units, num_layers=2, dropout=0.2, input_size=units)
        self.dropout = nn.Dropout(0.2)
        self.scores = nn.Dense(WORDS, flatten=False, params=self.words.params)

    def hybrid_forward(self, F: Any, words: Any, hidden: Any, cell: Any) -> Any:  # noqa: N803
        output, states = self.lstm(self.dropout(self.words(words)), [hidden, cell])
        return [self.scores(self.dropout(output)), *states]


def language_model(batch: int = 2, length: int = 6) -> Network:
    """Returns a language model as GluonNLP's standard one is made."""
    units = 16
    shapes = {"words": (length, batch), "hidden": (2, batch, units), "cell": (2, batch, units)}
    return from_gluon(_LanguageModel(units), shapes, {"words": _tokens})


class _Forecaster(gluon.HybridBlock):  # type: ignore[misc]
    """DeepAR's conditioning: scaled lags and known features, unrolled LSTM cells, a distribution's numbers."""

    def __init__(self, units: int, length: int, lags: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._length, self._lags = length, lags
        self.categories = nn.Embedding(4, 3)
        self.cells = rnn.HybridSequentialRNNCell()
        for _ in range(2):
            self.cells.add(rnn.LSTMCell(units))
            self.cells.add(rnn.ZoneoutCell(rnn.LSTMCell(units), zoneout_states=0.1))
        self.numbers = nn.Dense(3, flatten=False)

    def hybrid_forward(self, F: Any, past: Any, features: Any, category: Any) -> Any:  # noqa: N803
        # The scale is that of the conditioning range only.
        recent = F.slice_axis(past, axis=1, begin=-self._length, end=None)
        scale = F.broadcast_maximum(
            F.mean(F.abs(recent), axis=1, keepdims=True), F.ones_like(F.slice_axis(past, axis=1, begin=0, end=1)) * 1e-3
        )
        scaled = F.broadcast_div(past, scale)
        lagged = [
            F.slice_axis(scaled, axis=1, begin=-self._length - lag, end=-lag if lag else None) for lag in self._lags
        ]
        static = F.concat(self.categories(category), F.log(scale), dim=1)
        static = F.repeat(F.expand_dims(static, axis=1), axis=1, repeats=self._length)
        inputs = F.concat(F.stack(*lagged, axis=-1), features, static, dim=-1)
        outputs, states = self.cells.unroll(self._length, inputs, layout="NTC", merge_outputs=True)
        raw = F.split(self.numbers(outputs), axis=-1, num_outputs=3, squeeze_axis=True)
        spread = F.broadcast_mul(F.Activation(raw[1], act_type="softrelu"), scale)
        freedom = 2.0 + F.Activation(raw[2], act_type="softrelu")
        return [F.broadcast_mul(raw[0], scale), spread, freedom, *states]


def forecaster(batch: int = 2) -> Network:
    """Returns a network as GluonTS' DeepAR is made."""
    length, lags = 6, (1, 2, 4)
    shapes = {"past": (batch, length + max(lags)), "features": (batch, length, 2), "category": (batch,)}
    fills = {"category": lambda rng, shape: rng.randint(0, 4, shape)}
    return from_gluon(_Forecaster(12, length, lags), shapes, fills)
