"""Checkpoints that are hostile: clear errors at the doors of the commands, where MXNet's C++ might crash."""

from __future__ import annotations

import json
import random
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxnet_trt_property.cli import checkpoint
from mxnet_trt_property.cli.checkpoint import CheckpointError
from mxnet_trt_property.errors import ConversionError
from tests.symbols import conv_bn, mlp, random_arrays

SHAPES = {"data": (2, 5)}


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return save(tmp_path)


def save(folder: Path) -> str:
    """Writes a small checkpoint and returns its prefix."""
    symbol = mlp()
    arrays = random_arrays(symbol, SHAPES)
    name = str(folder / "net")
    mx.model.save_checkpoint(name, 0, symbol, {k: v for k, v in arrays.items() if k != "data"}, {})
    return name


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mxnet_trt_property", *arguments], capture_output=True, text=True, check=False
    )


def test_what_mxnet_saves_is_read(prefix: str, tmp_path: Path) -> None:
    _, arguments, auxiliary = checkpoint.load(prefix, 0, SHAPES)
    assert (set(arguments), auxiliary) == ({"fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias"}, {})
    file = tmp_path / "all.params"
    dense = {
        f"{dtype}-{len(shape)}": mx.nd.zeros(shape, dtype=dtype)
        for dtype in ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")
        for shape in ((1,), (2, 3), (2, 1, 3, 1, 2, 1))
    }
    for arrays in (
        dense,
        {"rows": mx.nd.sparse.row_sparse_array((np.ones((2, 3)), [1, 4]), shape=(6, 3)), "dense": mx.nd.ones((2,))},
        {"csr": mx.nd.sparse.csr_matrix((np.ones(3), [0, 2, 1], [0, 2, 2, 3]), shape=(3, 4))},
        [mx.nd.ones((3,))],
        {},
    ):
        mx.nd.save(str(file), arrays)
        checkpoint.check_params(file)
    with mx.util.np_shape(True):
        mx.nd.save(str(file), {"scalar": mx.np.array(1.0).as_nd_ndarray(), "none": mx.np.zeros((0, 3)).as_nd_ndarray()})
    checkpoint.check_params(file)


def test_the_form_of_old_versions(tmp_path: Path) -> None:
    """Arrays that begin with their shape, as MXNet wrote them before 0.12, and which it reads."""
    value = np.arange(6, dtype="float32")
    array = struct.pack("<IIIiii", 2, 2, 3, 1, 0, 0) + value.tobytes()
    data = struct.pack("<QQQ", 0x112, 0, 1) + array + struct.pack("<QQ", 1, 1) + b"w"
    file = tmp_path / "old.params"
    file.write_bytes(data)
    checkpoint.check_params(file)
    np.testing.assert_array_equal(mx.nd.load(str(file))["w"].asnumpy(), value.reshape(2, 3))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (
            {"dat": (2, 5)},
            "--shape names what is not there | found: dat | required: inputs of the network, such as",
        ),
        (
            {"data": (2, 6)},
            "shapes do not fit the network and its parameters | found: data=2,6: Error in operator fc1",
        ),
        ({}, "an input has neither a shape nor a value | found: data | next step: --shape data=N,..."),
    ],
)
def test_shapes_that_cannot_be_bound(prefix: str, shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(words)):
        checkpoint.load(prefix, 0, shapes)


def test_the_symbols_file_stands_for_the_prefix(prefix: str) -> None:
    assert set(checkpoint.load(f"{prefix}-symbol.json", 0, SHAPES)[1]) == set(checkpoint.load(prefix, 0, SHAPES)[1])


def test_another_epoch_is_named(prefix: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such file, but epoch 0 \| next step: --epoch 0"):
        checkpoint.load(prefix, 3, SHAPES)


def hostile(prefix: str) -> dict[str, bytes]:
    """Returns .params files that lie, by what they lie about."""
    good = Path(f"{prefix}-0000.params").read_bytes()
    first = 24  # where the first array begins: version, storage type, axes, sizes, device, type

    def with_(offset: int, form: str, value: int) -> bytes:
        return good[:offset] + struct.pack(form, value) + good[offset + struct.calcsize(form) :]

    return {
        "empty": b"",
        "magic": with_(0, "<Q", 0x113),
        "number of arrays": with_(16, "<Q", 2**60),
        "fewer arrays": with_(16, "<Q", 1),
        "version": with_(first, "<I", 0xF993FAC0),
        "storage type": with_(first + 4, "<i", 7),
        "sparse": with_(first + 4, "<i", 2),
        "axes": with_(first + 8, "<i", 2**30),
        "negative axes": with_(first + 8, "<i", -2),
        "size": with_(first + 12, "<q", 2**61),
        "negative size": with_(first + 12, "<q", -8),
        "type": with_(first + 12 + 8 * 2 + 8, "<i", 99),
        "cut": good[:-3],
        "more": good + b"x",
        "name": good[: good.rindex(b"arg:") - 8] + struct.pack("<Q", 2**40) + b"arg:x",
    }


def test_hostile_parameters(prefix: str) -> None:
    for what, data in hostile(prefix).items():
        Path(f"{prefix}-0000.params").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"cannot be loaded \| found: .* next step: save it again"):
            checkpoint.load(prefix, 0, {})
        assert what


def test_hostile_parameters_at_the_doors(prefix: str) -> None:
    Path(f"{prefix}-0000.params").write_bytes(hostile(prefix)["size"])
    for command in (("build", prefix), ("bench", prefix), ("explain", prefix, "--memory")):
        done = call(*command, "--shape", "data=2,5")
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stderr.splitlines()[-1].startswith("mxnet-trt: The parameters "), done.stderr
        assert "Traceback" not in done.stderr


def changed(change: Callable[[Any], Any]) -> str:
    data = json.loads(conv_bn().tojson())
    change(data)
    return json.dumps(data)


HOSTILE_SYMBOLS = {
    "no JSON": "nodes",
    "deep": "[" * 100_000,
    "no nodes": "{}",
    "null": "null",
    "infinite": '{"nodes": [], "heads": [[1e999, 0, 0]]}',
    "head": changed(lambda d: d["heads"].append([10**6, 0, 0])),
    "negative head": changed(lambda d: d["heads"].append([-1, 0, 0])),
    "negative output": changed(lambda d: d["heads"].append([1, -5, 0])),
    "input": changed(lambda d: d["nodes"][3]["inputs"].append([10**9, 0, 0])),
    "cycle": changed(lambda d: d["nodes"][3]["inputs"].append([3, 0, 0])),
    "negative input": changed(lambda d: d["nodes"][3]["inputs"].append([-2, 0, 0])),
    "arg_nodes": changed(lambda d: d["arg_nodes"].append(10**9)),
    "an operator in arg_nodes": changed(lambda d: d["arg_nodes"].append(3)),
    "text in arg_nodes": changed(lambda d: d["arg_nodes"].append("x")),
    "control_deps": changed(lambda d: d["nodes"][3].update(control_deps=[10**6])),
    "attributes": changed(lambda d: d["nodes"][3].update(attrs=[1])),
}


@pytest.mark.parametrize("what", HOSTILE_SYMBOLS)
def test_hostile_symbols(what: str) -> None:
    with pytest.raises(ConversionError):
        checkpoint.check_symbol(HOSTILE_SYMBOLS[what])


def test_hostile_symbols_at_the_doors(prefix: str, tmp_path: Path) -> None:
    Path(f"{prefix}-symbol.json").write_text(HOSTILE_SYMBOLS["input"])
    for command in (("explain",), ("plot", "-o", str(tmp_path / "x.svg")), ("build", "--shape", "data=2,5")):
        done = call(command[0], prefix, *command[1:])
        assert done.returncode == 1, done.stdout + done.stderr
        assert "not in topological order" in done.stderr
        assert "Traceback" not in done.stderr


def test_fuzz_parameters(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    fuzz_parameters(request.config.getoption("--fuzz-examples") or 500, tmp_path)


def fuzz_parameters(examples: int, folder: Path) -> int:
    """Gives the check of .params files that many; it refuses them with its error, or takes them. Returns how many."""
    good = Path(f"{save(folder)}-0000.params").read_bytes()
    file = folder / "fuzzed.params"

    @settings(max_examples=examples, deadline=None, database=None)
    @given(st.randoms(use_true_random=False), st.binary(max_size=60))
    def look(rng: random.Random, noise: bytes) -> None:
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            place = rng.randrange(len(data))
            data[place : place + rng.choice((1, 4, 8))] = noise[: rng.randrange(12)] or b"\xff"
        file.write_bytes(data)
        try:
            checkpoint.check_params(file)
        except CheckpointError:
            pass

    look()
    return examples


def test_fuzz_symbols(request: pytest.FixtureRequest) -> None:
    fuzz_symbols(request.config.getoption("--fuzz-examples") or 500)


def fuzz_symbols(examples: int) -> int:
    """Gives the reader of symbols that many texts; it refuses them with its error, or takes them."""
    good = conv_bn().tojson()
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=6,
    )

    @settings(max_examples=examples, deadline=None, database=None)
    @given(st.randoms(use_true_random=False), values)
    def look(rng: random.Random, value: Any) -> None:
        data = json.loads(good)
        where: Any = data
        while True:
            key = rng.choice(list(where)) if isinstance(where, dict) else rng.randrange(len(where))
            if rng.random() < 0.3 or not isinstance(where[key], (dict, list)) or not where[key]:
                break
            where = where[key]
        where[key] = value
        text = json.dumps(data)
        if rng.random() < 0.3:
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice('"{}[],:0-e\\\x00') + text[place + rng.randrange(3) :]
        try:
            checkpoint.check_symbol(text)
        except ConversionError:
            pass

    look()
    return examples
