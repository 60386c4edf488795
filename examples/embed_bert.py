"""Embeds sentences with a small BERT encoder that is trained first, on the CPU in some ten seconds.

The encoder has BERT's architecture (embeddings, two layers of four heads, pooler) in small, and is trained on a toy
task, not on a language: to tell the topic of made-up sentences. The pooler's output is a sentence's embedding; the
nearest of the known sentences to a new one should be of its topic.
"""

import sys

import mxnet as mx
import numpy as np
from common import arguments, backend, milliseconds, speed, train, verdict
from mxnet import gluon
from mxnet.gluon import nn

UNITS, HEADS, LONGEST = 64, 4, 10
TOPICS = {
    "weather": (
        "rain snow wind sun clouds storm fog",
        "falls shines blows comes clears freezes",
        "north hills coast valley",
    ),
    "kitchen": (
        "soup bread cake sauce dough stew tea",
        "boils bakes simmers cools rises burns",
        "oven pot pan kitchen",
    ),
    "traffic": (
        "bus train tram car bicycle truck taxi",
        "stops turns waits departs crosses brakes",
        "station road bridge tunnel",
    ),
}
COMMON = "the a in on near slowly again today often".split()
WORDS = {w: i for i, w in enumerate(["[PAD]", "[CLS]", *COMMON, *" ".join(sum(TOPICS.values(), ())).split()])}


def sentence(random, topic):
    """Returns a sentence of a topic such as 'the soup simmers slowly in the pot'."""
    thing, verb, place = (random.choice(words.split()) for words in TOPICS[topic])
    words = [random.choice(["the", "a"]), thing, verb, random.choice(["slowly", "again", "today", "often"])]
    return " ".join([*words, random.choice(["in", "on", "near"]), "the", place][: random.randint(3, 8)])


def tokens(sentences):
    """Returns word numbers (N, 10), padded, and the lengths (N,)."""
    rows = [[WORDS["[CLS]"], *(WORDS[w] for w in text.split())][:LONGEST] for text in sentences]
    padded = [row + [WORDS["[PAD]"]] * (LONGEST - len(row)) for row in rows]
    return np.float32(padded), np.float32([len(row) for row in rows])


class Layer(gluon.HybridBlock):
    """Attention and feed-forward layers, each with a residual and a layer normalization."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.query, self.key, self.value, self.output = (nn.Dense(UNITS, flatten=False) for _ in range(4))
        self.wide, self.narrow = nn.Dense(4 * UNITS, flatten=False), nn.Dense(UNITS, flatten=False)
        self.gelu, self.norm1, self.norm2 = nn.GELU(), nn.LayerNorm(), nn.LayerNorm()

    def hybrid_forward(self, F, x, mask):  # noqa: N803 (Gluon's own name)
        query, key, value = (
            F.reshape(F.transpose(F.reshape(part(x), (0, 0, HEADS, -1)), (0, 2, 1, 3)), (-3, 0, 0))
            for part in (self.query, self.key, self.value)
        )
        scores = F.batch_dot(query, key, transpose_b=True) / (UNITS // HEADS) ** 0.5
        scores = F.broadcast_add(F.reshape(scores, (-4, -1, HEADS, 0, 0)), mask)
        mixed = F.batch_dot(F.reshape(F.softmax(scores), (-3, 0, 0)), value)
        mixed = F.reshape(F.transpose(F.reshape(mixed, (-4, -1, HEADS, 0, 0)), (0, 2, 1, 3)), (0, 0, -3))
        x = self.norm1(x + self.output(mixed))
        return self.norm2(x + self.narrow(self.gelu(self.wide(x))))


class Bert(gluon.HybridBlock):
    """Words (N, 10 + 1), the last column being the lengths, to embeddings (N, 64) between -1 and 1."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.words = nn.Embedding(len(WORDS), UNITS)
        self.positions = self.params.get("positions", shape=(1, LONGEST, UNITS))
        self.norm, self.dropout = nn.LayerNorm(), nn.Dropout(0.1)
        self.layers = [Layer(), Layer()]
        for layer in self.layers:
            self.register_child(layer)
        self.pooler = nn.Dense(UNITS, activation="tanh")

    def hybrid_forward(self, F, words_and_length, positions):  # noqa: N803
        words = F.slice_axis(words_and_length, axis=1, begin=0, end=LONGEST)
        length = F.slice_axis(words_and_length, axis=1, begin=LONGEST, end=None)
        beyond = F.broadcast_greater_equal(F.reshape(F.arange(LONGEST), (1, -1)), length)
        mask = F.reshape(beyond, (0, 1, 1, -1)) * -1e9
        x = self.dropout(self.norm(F.broadcast_add(self.words(words), positions)))
        for layer in self.layers:
            x = layer(x, mask)
        return self.pooler(F.slice_axis(x, axis=1, begin=0, end=1))


def main():
    """Trains, embeds with and without TensorRT, and returns the exit status."""
    options = arguments(__doc__, epochs=4)
    mx.random.seed(0)
    np.random.seed(0)
    random, names = np.random.RandomState(2), list(TOPICS)
    topics = random.randint(0, len(names), 1280)
    data = np.column_stack(tokens([sentence(random, names[i]) for i in topics]))
    encoder, classifier = Bert(), nn.HybridSequential()
    classifier.add(encoder, nn.Dense(len(names)))
    train(classifier, data, topics, gluon.loss.SoftmaxCrossEntropyLoss(), options.epochs, rate=1e-3)

    kinds = random.randint(0, len(names), 240)
    texts = [sentence(random, names[i]) for i in kinds]
    data = mx.nd.array(np.column_stack(tokens(texts)))
    symbol = encoder(mx.sym.Variable("words_and_length"))
    parameters = {name: parameter.data() for name, parameter in encoder.collect_params().items()}
    found, times = {}, {}
    for name in ("MXNet", "TensorRT"):
        with backend(name):
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", words_and_length=data.shape)
            executor.copy_params_from(parameters)
            found[name] = executor.forward(is_train=False, words_and_length=data)[0].asnumpy()
            times[name] = milliseconds(lambda e=executor: e.forward()[0].wait_to_read(), options.seconds)
    unit = found["TensorRT"] / np.linalg.norm(found["TensorRT"], axis=1, keepdims=True)
    known, new = unit[:200], unit[200:]
    nearest = (new @ known.T).argmax(1)
    right = float(np.mean(kinds[nearest] == kinds[200:]))
    for i in range(3):
        print(f"'{texts[200 + i]}' is nearest to '{texts[nearest[i]]}' (cosine {new[i] @ known[nearest[i]]:.3f})")
    print(f"the nearest of 200 known sentences has the topic of the new one: {right:.0%} of 40")
    speed(times["MXNet"], times["TensorRT"], f"a batch of {len(texts)} sentences")
    return verdict(found["TensorRT"], found["MXNet"]) or int(right < 0.9)


if __name__ == "__main__":
    sys.exit(main())
