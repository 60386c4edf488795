"""The parts of a message, and what is left of MXNet's errors where their words are told on."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, Callable

import mxnet as mx
import pytest

from mxnet_trt_property.engines import registry
from mxnet_trt_property.errors import EngineError, brief, message, mxnet_words, next_step_of
from tests.harness import backend
from tests.symbols import mlp


def test_parts_of_a_message() -> None:
    text = message("X failed", found="nothing", required="something", next_step="pip install something")
    assert brief(text) == "X failed (nothing, required: something)"
    assert next_step_of(text) == "pip install something"
    assert (brief("X failed"), next_step_of("X failed")) == ("X failed", "")


def convolution() -> Any:
    return mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), num_filter=4, name="conv")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: convolution().simple_bind(mx.cpu(), data=(1, 3, 3)),
            "Error in operator conv: Check failed: dshp.ndim()",
        ),
        (lambda: mx.nd.zeros((3,)).copyto(mx.nd.zeros((4,))), "Check failed: assign(&dattr, vec.at(i)): Incompatible"),
        (lambda: mx.nd.load("/nowhere"), 'LocalFileSystem: Check failed: allow_null: :Open "/nowhere"'),
    ],
)
def test_mxnets_own_errors(make: Callable[[], Any], words: str) -> None:
    with pytest.raises((mx.MXNetError, RuntimeError)) as raised:
        make()
    found = mxnet_words(raised.value)
    assert found.startswith(words), found
    assert len(found.splitlines()) == 1


def test_our_own_errors_are_left_alone() -> None:
    text = "X failed | found: first\nMXNetError: second | next step: none"
    assert mxnet_words(EngineError(text)) == text


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = message("not here", found="nothing", next_step="install it")
    for name in registry.names():
        monkeypatch.setitem(registry._LOADED, name, SimpleNamespace(name=name, unusable=lambda device: reason))


def test_no_engine_is_told_in_one_line(no_engine: None, caplog: pytest.LogCaptureFixture, fresh_warnings: None) -> None:
    with caplog.at_level(logging.DEBUG, "mxnet_trt_property"), backend("TensorRT"):
        executor = mlp().simple_bind(mx.cpu(), grad_req="null", data=(2, 5))
    assert not hasattr(executor, "tensorrt")
    (text,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert text.startswith(
        "A network could not be bound with its TensorRT nodes; MXNet runs all of it | found: No engine"
    )
    assert "onnxruntime: not here (nothing)" in text
    assert (
        " | next step: pip install onnxruntime, or see mxnet-trt doctor for the others; or set MXNET_TENSORRT_ON"
        in text
    )
    assert len(text.splitlines()) == 1 and "Traceback" not in text
    assert any(record.exc_info for record in caplog.records if record.levelname == "DEBUG"), "all of it is at DEBUG"


def test_a_fault_of_ours_keeps_its_traceback(
    caplog: pytest.LogCaptureFixture, fresh_warnings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(*_: Any) -> Any:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("mxnet_trt_property.session.engines.choose", choose)
    with backend("TensorRT"):
        mlp().simple_bind(mx.cpu(), grad_req="null", data=(2, 5))
    text = "\n".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "ZeroDivisionError: a fault" in text
    assert "Traceback (most recent call last)" in text
