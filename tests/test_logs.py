"""What is logged: a line for each bind and each engine, warnings once and with a next step, and nothing on stdout."""

from __future__ import annotations

import ast
import inspect
import logging
import re
from pathlib import Path
from typing import Any

import mxnet as mx
import pytest

import mxnet_trt_property
from mxnet_trt_property import logs, programs
from tests.symbols import backend, bound, conv_bn, mlp, split_net

PACKAGE = Path(mxnet_trt_property.__file__).parent
# Commands print; the import hook has no `logging` yet; the native library's messages are errors of MXNet's.
MAY_PRINT = ("cli/", "settings.py")


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "mxnet_trt_property")
    monkeypatch.setenv("MXNET_TENSORRT_ENGINE", "onnxruntime")
    programs.clear()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.name.startswith("mxnet_trt_property")]
    caplog.clear()
    return found


def forward(executor: Any) -> None:
    for output in executor.forward(is_train=False):
        output.wait_to_read()


BIND = r"bind: 3 of 3 nodes in 1 subgraphs; engine onnxruntime, fp32"
ENGINE = r"tensorrt\d: onnxruntime engine {} in \d+\.\d\d s, \d+\.\d MB, {} nodes, fp32"


def test_a_line_for_the_bind_and_one_for_the_engine(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    executor = bound(mlp("logs_"), "TensorRT", {"data": (3, 5)})
    (line,) = lines(caplog)
    assert re.fullmatch(BIND, line)
    for _ in range(3):
        forward(executor)
    (line,) = lines(caplog)
    assert re.fullmatch(ENGINE.format("built", 3), line)
    second = bound(mlp("logs_"), "TensorRT", {"data": (3, 5)})
    forward(second)
    (line,) = lines(caplog)
    assert re.fullmatch(BIND, line), "the second executor shares the first one's engine"
    executor.arg_dict["logs_fc1_weight"][:] = 1
    forward(executor)
    (line,) = lines(caplog)
    assert re.fullmatch(ENGINE.format("built again because .+", 3), line)
    assert capfd.readouterr().out == ""


def test_what_stays_with_mxnet_is_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    executor = bound(split_net(), "TensorRT", {"data": (2, 8)})
    forward(executor)
    first, *engines = lines(caplog)
    assert first == "bind: 4 of 5 nodes in 2 subgraphs; left with MXNet: gammaln (1); engine onnxruntime, fp32"
    assert len(engines) == 2
    assert all(re.fullmatch(ENGINE.format("built", 2), line) for line in engines)


def test_reshape_is_a_bind(caplog: pytest.LogCaptureFixture) -> None:
    executor = bound(mlp("logs_"), "TensorRT", {"data": (3, 5)})
    lines(caplog)
    executor.reshape(data=(2, 5))
    assert [re.fullmatch(BIND, line) is not None for line in lines(caplog)] == [True]


def test_a_compiled_model_tells_its_engine(caplog: pytest.LogCaptureFixture) -> None:
    executor = bound(conv_bn(), "NONE", {"data": (2, 3, 8, 8)})
    model = mxnet_trt_property.compile(conv_bn(), executor.arg_dict, executor.aux_dict, {"data": (2, 3, 8, 8)})
    (line,) = lines(caplog)
    assert re.fullmatch(r"\S.*: onnxruntime engine built in \d+\.\d\d s, \d+\.\d MB, fp32", line)
    model.close()


def test_nothing_is_logged_with_tensorrt_off(caplog: pytest.LogCaptureFixture) -> None:
    forward(bound(mlp("logs_"), None, {"data": (3, 5)}))
    assert lines(caplog) == []


def test_why_an_engine_was_not_chosen_is_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mxnet_trt_property")
    with backend("TensorRT", MXNET_TENSORRT_ENGINE="auto"):
        for _ in range(2):
            mlp().simple_bind(mx.cpu(), grad_req="null", data=(1, 5))
    assert sum(line.startswith("engine for arrays on cpu(0): ") for line in lines(caplog)) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp().simple_bind(mx.cpu(), grad_req="write", data=(1, 5)),
        lambda: mlp().simple_bind(mx.cpu(), grad_req="null", data=(1, 5)).forward(is_train=True),
        lambda: mlp().simple_bind(mx.cpu(), grad_req="null", data=(1, 5)).set_monitor_callback(lambda *a: None),
        lambda: mlp().simple_bind(mx.cpu(), grad_req="null", data=(1, 5), group2ctx={"a": mx.cpu(0)}),
        lambda: (mx.sym.Variable("a") + mx.sym.Variable("a")).simple_bind(mx.cpu(), grad_req="null", a=(2, 2)),
    ],
    ids=["training", "is_train", "monitor", "group2ctx", "one name twice"],
)
def test_a_warning_is_given_once_and_says_what_to_do(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    with backend("TensorRT", MXNET_TENSORRT_ENGINE="onnxruntime"):
        for _ in range(3):
            try:
                make()
            except (mx.MXNetError, RuntimeError):
                pass  # stock MXNet refuses two arguments of one name
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert " | next step: " in warnings[0]


def test_a_named_engine_that_cannot_be_had_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with backend("TensorRT", MXNET_TENSORRT_ENGINE="tensorrt"):
        for _ in range(2):
            mlp().simple_bind(mx.cpu(), grad_req="null", data=(1, 5))
    (text,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert text.startswith("Engine tensorrt cannot run arrays on cpu(0); ")
    assert "mxnet-trt doctor" in text


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_every_warning_goes_through_the_one_function() -> None:
    assert inspect.signature(logs.warn_once).parameters["next_step"].default is inspect.Parameter.empty
    given = 0
    for file in sources():
        for call in calls(ast.parse(file.read_text(encoding="utf-8"))):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name == "warn_once":
                given += 1
                steps = [keyword.value for keyword in call.keywords if keyword.arg == "next_step"]
                assert steps and not (isinstance(steps[0], ast.Constant) and not steps[0].value), (
                    f"{file}:{call.lineno}"
                )
            elif file.name not in ("logs.py", "_autoload.py"):
                assert name not in ("warning", "warn", "error", "critical"), f"{file}:{call.lineno} logs by itself"
    assert given > 10


def test_the_library_prints_nothing() -> None:
    for file in sources():
        name = str(file.relative_to(PACKAGE))
        if name.startswith(MAY_PRINT):
            continue
        text = file.read_text(encoding="utf-8")
        printing = [call.lineno for call in calls(ast.parse(text)) if getattr(call.func, "id", "") == "print"]
        assert not printing and "sys.stdout" not in text, f"{name} prints: {printing}"
