"""Builds that show how far they are, and that Ctrl-C stops: real signals, real builds of TensorRT for RTX."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from typing import Any, Optional

import pytest

from mxnet_trt_property import building, native, progress
from mxnet_trt_property.engines.registry import Device, Options
from mxnet_trt_property.errors import BuildInterruptedError, EngineError

CPU = Device("cpu", 0)

# An engine that builds each model with TensorRT for RTX, which needs no GPU for that, and runs it on ONNX Runtime.
# In the build called by `hold` the process says so and waits, for whoever sends the signal.
PREAMBLE = """
import logging, os, signal, sys, threading, time
os.environ.update(MXNET_SUBGRAPH_BACKEND="TensorRT", MXNET_TENSORRT_ENGINE="onnxruntime", MXNET_TENSORRT_CACHE="0")
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
import mxnet as mx
import numpy as np
import mxnet_trt_property
from mxnet_trt_property import building, progress
from mxnet_trt_property.engines import ort, trt_build

builds = []
hold = True

def wait_for_the_signal():
    global hold
    if hold:
        hold = False
        print("building", flush=True)
        time.sleep(0.8)

stock_build, stock_step = ort.OnnxRuntimeEngine.build, progress.Progress.step

def step(self, phase, index):
    if len(builds) == 1 and index == 0:
        wait_for_the_signal()
    stock_step(self, phase, index)

def build(self, model, options, device, label):
    builds.append(threading.current_thread().name)
    if WITH_TENSORRT:
        trt_build.library("tensorrt_rtx").build(model, label)
    else:
        wait_for_the_signal()
    return stock_build(self, model, options, device, label)

progress.Progress.step, ort.OnnxRuntimeEngine.build = step, build

net = mx.sym.Variable("data")
for i in range(3):
    net = mx.sym.Convolution(net, kernel=(3, 3), num_filter=8, pad=(1, 1), name=f"conv{i}")
    net = mx.sym.Activation(net, act_type="relu")
data = {"data": (1, 8, 16, 16)}
shapes = dict(zip(net.list_arguments(), net.infer_shape(**data)[0]))
params = {n: mx.nd.random.normal(shape=s) for n, s in shapes.items() if n != "data"}
x = mx.nd.random.normal(shape=data["data"])

def bind(backend):
    os.environ["MXNET_SUBGRAPH_BACKEND"] = backend
    executor = net.simple_bind(mx.cpu(), grad_req="null", **data)
    executor.copy_params_from(params)
    return executor

expected = bind("NONE").forward(data=x)[0].asnumpy()

def check(found):
    assert np.abs(found.asnumpy() - expected).max() < 1e-4 * np.abs(expected).max()

def interrupted(work):
    begun = time.perf_counter()
    try:
        work()
    except KeyboardInterrupt:
        return time.perf_counter() - begun
    raise AssertionError("no KeyboardInterrupt")
"""

FORWARD = """
WITH_TENSORRT = True
executor = bind("TensorRT")
interrupted(lambda: executor.forward(data=x)[0].wait_to_read())
assert executor.tensorrt.sessions[0].report.builds == 0
assert not executor.tensorrt.use_twin
for _ in range(2):
    check(executor.forward(data=x)[0])
report = executor.tensorrt.sessions[0].report
assert (report.engine, report.builds, len(builds)) == ("onnxruntime", 1, 2), (report, builds)
assert not executor.tensorrt.use_twin
"""

PROGRAMS = {
    "a forward": FORWARD,
    # MXNet's NaiveEngine: it has moved the graph's shapes away when an operator fails, and cannot run it again.
    "a forward on the main thread": """
WITH_TENSORRT = True
executor = bind("TensorRT")
interrupted(lambda: executor.forward(data=x)[0].wait_to_read())
assert executor.tensorrt.sessions[0].report.builds == 0
check(executor.forward(data=x)[0])
check(bind("TensorRT").forward(data=x)[0])
assert len(builds) == 2
""",
    "compile": """
WITH_TENSORRT = True
make = lambda: mxnet_trt_property.compile(net, params, {}, data)
interrupted(make)
assert builds == ["mxnet-trt-build"], builds
check(mx.nd.array(make()(x.asnumpy())))
assert len(builds) == 2
""",
    "a program's own handler": """
WITH_TENSORRT = True
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
executor = bind("TensorRT")
check(executor.forward(data=x)[0])
assert seen, "the handler was called"
assert len(builds) == 1
""",
    # It cannot be stopped: MXNet's call ends with the build, which is kept.
    "ONNX Runtime, a forward": """
WITH_TENSORRT = False
executor = bind("TensorRT")
interrupted(lambda: executor.forward(data=x)[0].wait_to_read())
check(executor.forward(data=x)[0])
assert len(builds) == 1 and not executor.tensorrt.use_twin
""",
    "ONNX Runtime, compile": """
WITH_TENSORRT = False
make = lambda: mxnet_trt_property.compile(net, params, {}, data)
interrupted(make)
check(mx.nd.array(make()(x.asnumpy())))
assert len(builds) == 2
""",
}


FAST = ("a forward", "compile")


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in PROGRAMS])
def test_ctrl_c(name: str) -> None:
    if "ONNX Runtime" not in name:
        pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX builds without a GPU, and is not installed")
    variables = {"MXNET_ENGINE_TYPE": "NaiveEngine"} if "main thread" in name else {}
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + PROGRAMS[name] + "print('done', flush=True)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert (said + rest, process.returncode) == ("building\ndone\n", 0), errors
    warnings = [line for line in errors.splitlines() if line.startswith("WARNING")]
    known = ("ONNX Runtime cannot stop a build", "Ctrl-C stopped a forward of MXNet's NaiveEngine")
    assert all(any(words in line for words in known) for line in warnings), errors
    if name == "ONNX Runtime, compile":
        assert warnings


BAR = """
import sys, time
from mxnet_trt_property import building, progress
from mxnet_trt_property.engines.registry import Device, Options
progress.QUIET_S = 0.05

class Engine:
    name = "slow"

    def build(self, model, options, device, label):
        report = building.current().progress
        report.start("Building", "", 4)
        for step in range(4):
            time.sleep(0.2)
            report.step("Building", step)
        return object()

building.build(Engine(), b"", Options(), Device("cpu", 0), "tensorrt0")
print("the result")
"""


def test_a_terminal_shows_a_bar_on_stderr() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", BAR], stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.communicate(timeout=60)[0] == b"the result\n"
    assert process.returncode == 0
    assert b"tensorrt0: building on slow |" in shown
    assert b"50%" in shown


class SlowEngine:
    """Builds nothing, in steps that report."""

    name = "slow"

    def __init__(self, steps: int = 4, seconds: float = 0.05, error: Optional[Exception] = None) -> None:
        self.steps, self.seconds, self.error = steps, seconds, error
        self.stopped_at = -1

    def build(self, model: bytes, options: Options, device: Device, label: str) -> Any:
        build = building.current()
        assert build is not None
        build.progress.start("Building", "", self.steps)
        for step in range(self.steps):
            time.sleep(self.seconds)
            build.progress.step("Building", step)
            if build.is_stopped():
                self.stopped_at = step
                raise building.interruption(label)
        if self.error is not None:
            raise self.error
        return "the program"


def build(engine: Any) -> Any:
    """Returns what building.build does."""
    return building.build(engine, b"", Options(), CPU, "tensorrt0")


def test_elsewhere_the_log_tells(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "mxnet_trt_property")
    assert build(SlowEngine()) == "the program"
    assert not caplog.records, "nothing is said of a build shorter than a second"
    monkeypatch.setattr(progress, "QUIET_S", 0.06)
    monkeypatch.setattr(progress, "_LINE_S", 0.1)
    assert build(SlowEngine(8)) == "the program"
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) >= 2
    assert all(line.startswith("tensorrt0: building on slow since 0 s, ") for line in lines)
    assert all(line.endswith(" % done") for line in lines)
    assert capfd.readouterr().out == ""


def test_nested_phases_add_up_and_never_fall() -> None:
    report = progress.Progress("tensorrt0: building on slow")
    assert report.fraction is None
    seen = []

    def note() -> None:
        assert report.fraction is not None
        seen.append(report.fraction)

    report.start("whole", "", 2)
    note()
    for child in ("first", "second"):
        report.start(child, "whole", 4)
        for step in range(4):
            report.step(child, step)
            note()
        report.finish(child)
        report.step("whole", len(seen) // 6)
        note()
    report.finish("whole")
    note()
    assert seen == sorted(seen)
    assert seen[2] == pytest.approx(0.25)
    assert seen[-1] == 1


def test_errors_of_a_build_are_those_of_the_engine() -> None:
    with pytest.raises(EngineError, match="no such node"):
        build(SlowEngine(1, 0, EngineError("no such node")))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(build(SlowEngine())))
    thread.start()
    thread.join()
    assert found == ["the program"]


def test_a_build_on_another_thread_is_stopped_by_a_signal_and_the_handler_is_put_back() -> None:
    before = native.library().mxtrt_interrupt_count()
    engine, errors = SlowEngine(100), []

    def work() -> None:
        try:
            build(engine)
        except BuildInterruptedError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        thread.join()
    thread.join()
    assert native.library().mxtrt_interrupt_count() == before + 1
    assert 0 <= engine.stopped_at < 50
    assert errors == [str(building.interruption("tensorrt0"))]
    assert "next step: call forward() again" in errors[0]
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert native.library().mxtrt_interrupt_count() == before + 1, "no build, no handler of ours"


def test_a_handler_that_was_set_during_a_build_stays() -> None:
    library = native.library()
    assert library.mxtrt_watch_interrupts(1) == native.OK
    seen: list[int] = []
    stock = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        library.mxtrt_watch_interrupts(0)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert seen == [1]
    finally:
        signal.signal(signal.SIGINT, stock)
    assert library.mxtrt_watch_interrupts(1) == native.OK
    library.mxtrt_watch_interrupts(0)
    ignoring = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert library.mxtrt_watch_interrupts(1) == native.FAIL
    finally:
        signal.signal(signal.SIGINT, ignoring)


def test_making_an_engine_ready_is_shown_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fresh_warnings: None
) -> None:
    """As TensorRT for RTX does it: its execution context compiles for the GPU."""
    from mxnet_trt_property import programs
    from mxnet_trt_property.engines.ort import OnnxRuntimeProgram
    from tests.symbols import assert_same, mlp, pair

    stock = OnnxRuntimeProgram.runner

    def slow(self: Any, device: Device) -> Any:
        time.sleep(0.2)
        return stock(self, device)

    monkeypatch.setenv("MXNET_TENSORRT_ENGINE", "onnxruntime")
    monkeypatch.setattr(OnnxRuntimeProgram, "runner", slow)
    monkeypatch.setattr(progress, "QUIET_S", 0.05)
    caplog.set_level(logging.INFO, "mxnet_trt_property")
    programs.clear()
    reference, ours = pair(mlp(), {"data": (2, 5)})
    assert_same(ours, reference)
    assert "tensorrt0: making it ready on onnxruntime since 0 s" in caplog.text
