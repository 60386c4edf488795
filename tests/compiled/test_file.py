"""`save` and `load` of compiled models: what comes back, and every kind of damage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mxnet_trt_property
from mxnet_trt_property import compiled_file
from mxnet_trt_property.compiled import CompiledModel, CompileError, ModelFileError
from mxnet_trt_property.engines import registry
from tests.compiled.nets import compile_net
from tests.symbols import mlp, relative_error


@pytest.fixture
def saved(model: CompiledModel, tmp_path: Path) -> Path:
    path = tmp_path / "net.mxtrt"
    model.save(path)
    return path


def test_save_and_load(saved: Path, model: CompiledModel, arrays: dict[str, Any], expected: Any) -> None:
    with mxnet_trt_property.load(saved, engine="onnxruntime") as loaded:
        assert (loaded.inputs, loaded.outputs) == (model.inputs, model.outputs)
        assert relative_error(loaded(arrays["data"]), expected) < 1e-6
        with pytest.raises(CompileError, match="keep_onnx=True"):
            loaded.save(saved)
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    with mxnet_trt_property.load(saved, engine="onnxruntime", keep_onnx=True) as loaded:
        loaded.save(saved.with_name("copy"))
    assert saved.with_name("copy").read_bytes() == saved.read_bytes()


def test_the_engine_asked_for_is_tried_first(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(registry.get("tensorrt")), "unusable", lambda self, device: None)
    assert mxnet_trt_property.load(saved).engine == "onnxruntime"


def test_a_loaded_model_does_not_import_mxnet(saved: Path, arrays: dict[str, Any], expected: Any) -> None:
    np.savez(saved.with_name("data.npz"), data=arrays["data"].asnumpy(), expected=expected.asnumpy())
    program = (
        "import sys, numpy as np, mxnet_trt_property as m\n"
        f"a = np.load({str(saved.with_name('data.npz'))!r})\n"
        f"found = m.load({str(saved)!r}, engine='onnxruntime')(a['data'])\n"
        "assert np.allclose(found, a['expected'], rtol=1e-5, atol=1e-6)\n"
        "assert 'mxnet' not in sys.modules and 'onnx' not in sys.modules\n"
        "print('same')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same", done.stderr


def test_a_truncated_file_is_refused(saved: Path) -> None:
    data = saved.read_bytes()
    damaged = saved.with_name("damaged")
    offsets = {0, 1, 7, 8, 12, 16, 23, 24, 25, *range(0, len(data), max(1, len(data) // 40)), len(data) - 1}
    for offset in sorted(offsets):
        damaged.write_bytes(data[:offset])
        with pytest.raises(ModelFileError, match=r"damaged|not a compiled model"):
            mxnet_trt_property.load(damaged)
    damaged.write_bytes(data + b"\0")
    with pytest.raises(ModelFileError, match="is damaged"):
        mxnet_trt_property.load(damaged)


def test_a_changed_byte_is_found(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    damaged = saved.with_name("damaged")
    for offset in sorted({*range(40), *range(40, len(data), max(1, len(data) // 60)), len(data) - 1}):
        data[offset] ^= 0x40
        damaged.write_bytes(data)
        data[offset] ^= 0x40
        with pytest.raises(ModelFileError, match=f"{damaged}.*(damaged|not a compiled model|format)"):
            mxnet_trt_property.load(damaged)


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04 a zip file", b"\x80\x04}q\x00.", os.urandom(300)])
def test_a_foreign_file_is_refused(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(contents)
    with pytest.raises(ModelFileError, match="not a compiled model"):
        mxnet_trt_property.load(path)


def test_a_description_of_another_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    for meta in ({}, {"precision": "fp32", "engine": "auto", "inputs": [["data"]], "outputs": [], "unused": []}):
        compiled_file.write(path, meta, b"")
        with pytest.raises(ModelFileError, match="description"):
            mxnet_trt_property.load(path)


def test_a_failed_save_leaves_the_file_as_it_was(
    saved: Path, model: CompiledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        model.save(saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError):
        mxnet_trt_property.load("/nowhere/net.mxtrt")


def test_not_keeping_the_onnx_model(arrays: dict[str, Any], tmp_path: Path) -> None:
    with compile_net(mlp(), arrays, "data", keep_onnx=False) as made:
        assert made.onnx is None
        with pytest.raises(CompileError, match="keep_onnx"):
            made.save(tmp_path / "x")
