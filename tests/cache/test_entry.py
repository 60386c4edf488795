"""The file of an entry: whatever is changed in it, it is refused, and what is read is what was written."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from mxnet_trt_property.cache import entry
from mxnet_trt_property.cache.entry import Entry, EntryError

KEY = bytes(range(32))
META = {"kind": "engine", "name": "ü"}
HEAD, BODY = b"head" * 9, bytes(range(256)) * 20
NOWHERE = Path("nowhere")
FIELDS = {
    "magic": (0, 8),
    "format": (8, 12),
    "meta bytes": (12, 16),
    "head bytes": (16, 24),
    "body bytes": (24, 32),
    "key": (32, 64),
}


def written(meta: Any = None, head: bytes = HEAD, body: Any = BODY) -> bytes:
    stream = io.BytesIO()
    entry.write(stream, KEY, META if meta is None else meta, head, body)
    return stream.getvalue()


def read(data: bytes, key: Any = KEY, keep: bool = True) -> Entry:
    return entry.read(io.BytesIO(data), len(data), key, NOWHERE, keep)


FILE = written()


def sealed(data: bytes) -> bytes:
    """Returns a file with a right checksum, as one who may write the folder can make it."""
    return data[:-32] + blake3(data[:-32]).digest()


@pytest.mark.parametrize(("head", "body"), [(HEAD, BODY), (b"", BODY), (HEAD, b""), (b"", b""), (b"x" * 5000, b"y")])
def test_what_was_written_is_read(head: bytes, body: bytes) -> None:
    data = written(head=head, body=body)
    assert len(data) == entry.size_of(META, head, body)
    found = read(data)
    assert (found.meta, found.head, found.body) == (META, head, body)
    assert found.body_offset % entry.ALIGNMENT == 0
    assert data[found.body_offset : found.body_offset + found.body_bytes] == body
    unread = read(data, keep=False)
    assert (unread.body, unread.body_bytes, unread.body_offset) == (None, len(body), found.body_offset)


def test_a_body_out_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(BODY)
    assert written(body=file) == FILE


def test_another_key_is_refused() -> None:
    with pytest.raises(EntryError, match="another key"):
        read(FILE, key=bytes(32))
    assert read(FILE, key=None).head == HEAD


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("name", FIELDS)
def test_a_changed_field_is_refused(name: str, keep: bool) -> None:
    start, end = FIELDS[name]
    for place in range(start, end):
        for bit in range(8):
            changed = bytearray(FILE)
            changed[place] ^= 1 << bit
            with pytest.raises(EntryError):
                read(bytes(changed), keep=keep)
            if name not in ("meta bytes", "head bytes"):  # these may be true of another file with this checksum
                with pytest.raises(EntryError):
                    read(sealed(bytes(changed)), keep=keep)


def test_every_changed_byte_is_refused() -> None:
    for place in range(len(FILE)):
        changed = bytearray(FILE)
        changed[place] ^= 0x41
        with pytest.raises(EntryError):
            read(bytes(changed), keep=place % 2 == 0)


def test_every_truncated_file_is_refused() -> None:
    for length in range(len(FILE)):
        with pytest.raises(EntryError):
            read(FILE[:length], keep=length % 2 == 0)


def test_more_at_the_end_is_refused() -> None:
    with pytest.raises(EntryError, match="by its header"):
        read(FILE + b"\0")


def test_a_file_that_shrinks_while_it_is_read() -> None:
    for keep in (True, False):
        with pytest.raises(EntryError, match="an end before its length"):
            entry.read(io.BytesIO(FILE[:-100]), len(FILE), KEY, NOWHERE, keep)


@pytest.mark.parametrize("field", ["meta bytes", "head bytes", "body bytes"])
def test_a_huge_length_allocates_nothing(field: str) -> None:
    """The header alone, in a process that may not have more than a little memory."""
    start, end = FIELDS[field]
    changed = bytearray(FILE)
    changed[start:end] = b"\xff" * (end - start)
    program = (
        "import io, resource, sys\n"
        "from pathlib import Path\n"
        "from mxnet_trt_property.cache import entry\n"
        f"data = bytes.fromhex({bytes(changed).hex()!r})\n"
        f"limit = {1 << 31}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try:\n"
        "    entry.read(io.BytesIO(data), len(data), None, Path('x'), True)\n"
        "except entry.EntryError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "header" in done.stdout, done.stderr


@pytest.mark.parametrize("text", [b"[]", b"7", b"{", b"\xff", b"[" * 100_000, b"NaN" * 3])
def test_a_hostile_description(text: bytes) -> None:
    """With a right checksum: who may write the folder is trusted, but not to write JSON."""
    front = struct.pack("<8sIIQQ32s", entry.MAGIC, entry.FORMAT, len(text), 0, 0, KEY) + text
    data = front + bytes(entry.body_offset(len(text), 0) - len(front))
    with pytest.raises(EntryError, match="description"):
        read(data + blake3(data).digest())


def test_what_no_reader_takes_is_not_written() -> None:
    with pytest.raises(ValueError, match="meta of"):
        written(meta={"x": "y" * entry.META_LIMIT})


def test_fuzz(request: pytest.FixtureRequest) -> None:
    """Random and damaged files, a small number of them each day and a million with ci/fuzz.py."""
    fuzz(request.config.getoption("--fuzz-examples") or 2000)


PER_EXAMPLE = 20


def fuzz(examples: int) -> int:
    """Gives the reader that many files; each is refused, or is what was written. Returns how many it got."""
    count = 0

    @settings(max_examples=max(1, examples // PER_EXAMPLE), deadline=None, database=None)
    @given(st.sampled_from(KINDS), st.randoms(use_true_random=False), st.binary(max_size=200))
    def look(kind: str, rng: random.Random, noise: bytes) -> None:
        nonlocal count
        for _ in range(PER_EXAMPLE):
            count += 1
            check(kind, damaged(kind, rng, noise), rng.random() < 0.5)

    look()
    return count


KINDS = ("bytes", "header", "flips", "cut", "sealed", "moved")


def damaged(kind: str, rng: random.Random, noise: bytes) -> bytes:
    """Returns a file with one kind of damage."""
    file = bytearray(FILE)
    if kind == "bytes":
        place = rng.randrange(len(file))
        return bytes(file[:place] + noise + file[place + rng.randrange(300) :]) if rng.random() < 0.8 else noise
    if kind == "header":
        fields = [rng.getrandbits(rng.choice((3, bits))) for bits in (32, 32, 64, 64)]
        return struct.pack("<8sIIQQ32s", entry.MAGIC, *fields, KEY) + FILE[64:]
    if kind == "cut":
        return bytes(file[: rng.randrange(len(file))])
    if kind == "moved":
        place = rng.randrange(len(file))
        return bytes(file[place:] + file[:place])
    for _ in range(rng.randrange(1, 9)):
        file[rng.randrange(64 if rng.random() < 0.3 else len(file))] ^= rng.randrange(1, 256)
    return sealed(bytes(file)) if kind == "sealed" else bytes(file)


def check(kind: str, file: bytes, keep: bool) -> None:
    """Asserts that a file is refused, or that what is read is what is there."""
    try:
        found = read(file, keep=keep)
    except EntryError:
        return
    if kind != "sealed":
        assert file == FILE
    json.dumps(found.meta)
    assert found.body_offset + found.body_bytes + 32 == len(file)
    assert found.body in (None, file[found.body_offset : -32])
