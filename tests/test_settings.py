"""The one table of variables: defaults, every kind of value, and the messages for wrong ones."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mxnet_trt_property import settings
from mxnet_trt_property.errors import SettingError


def test_defaults() -> None:
    found = settings.read()
    assert (found.engine, found.precision, found.min_subgraph_size, found.on_error) == ("auto", "fp32", 2, "fallback")
    assert found.exclude_ops == ()
    assert settings.value("AUTOLOAD") is True
    assert settings.value("REPORT") is None


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("ENGINE", "OnnxRuntime", "onnxruntime"),
        ("EXCLUDE_OPS", " sigmoid , Pooling,", ("sigmoid", "Pooling")),
        ("MIN_SUBGRAPH_SIZE", "1", 1),
        ("VERBOSE", "yes", True),
        ("VERBOSE", "0", False),
        ("ON_ERROR", "", "fallback"),
        ("REPORT", "/a/b", Path("/a/b")),
    ],
)
def test_values(name: str, text: str, expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.PREFIX + name, text)
    assert settings.value(name) == expected


@pytest.mark.parametrize(
    ("name", "text", "required"),
    [
        ("ENGINE", "cuda", "one of auto, tensorrt, tensorrt_rtx, onnxruntime"),
        ("PRECISION", "fp7", "one of fp32"),
        ("MIN_SUBGRAPH_SIZE", "0", "a whole number from 1 up"),
        ("DEVICE", "-1", "a whole number from 0 up"),
        ("WORKSPACE_MB", "1.5", "(MiB)"),
        ("VERBOSE", "maybe", "0 or 1"),
    ],
)
def test_wrong_values_list_the_valid_ones(name: str, text: str, required: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.PREFIX + name, text)
    with pytest.raises(SettingError) as caught:
        settings.value(name)
    assert settings.PREFIX + name in str(caught.value)
    assert repr(text) in str(caught.value)
    assert required in str(caught.value)


def test_options_go_before_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MIN_SUBGRAPH_SIZE", "7")
    assert settings.read({"min_subgraph_size": "3"}).min_subgraph_size == 3
    with pytest.raises(SettingError, match="autoload"):
        settings.read({"autoload": "0"})


def test_unknown_variables_are_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fresh_warnings: None
) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_PRECISON", "fp16")
    with caplog.at_level(logging.WARNING):
        settings.read()
        settings.read()
    assert [r.message.count("MXNET_TENSORRT_PRECISON") for r in caplog.records] == [1]


@pytest.mark.parametrize(
    ("backend", "old", "expected"),
    [
        (None, None, False),
        ("TensorRT", None, True),
        ("NONE", None, False),
        ("MKLDNN", "1", False),
        (None, "1", True),
        (None, "0", False),
    ],
)
def test_switches(backend: object, old: object, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in ((settings.BACKEND_VARIABLE, backend), (settings.OLD_SWITCH, old)):
        if text is not None:
            monkeypatch.setenv(name, str(text))
    assert settings.backend_is_on() is expected


def test_readme_has_the_table() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert settings.markdown_table() in readme, "run: python -m mxnet_trt_property.settings"
