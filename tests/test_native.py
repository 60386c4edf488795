"""The boundary to the native library: what is checked when it is loaded, and that no exception gets lost in C++."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import mxnet as mx
import pytest

from mxnet_trt_property import backend as package_backend
from mxnet_trt_property import native, session
from mxnet_trt_property.errors import NativeLibraryError
from tests.symbols import backend, bound, fill, mlp, random_arrays, relative_error


def test_another_abi_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lib = native._open(native.LIBRARY)
    native._check_abi(lib, native.LIBRARY)
    monkeypatch.setattr(native, "ABI_VERSION", native.ABI_VERSION + 1)
    with pytest.raises(NativeLibraryError, match="reinstall the package"):
        native._check_abi(lib, native.LIBRARY)


def test_a_struct_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Grown(native.CTensor):
        _fields_ = (("more", ctypes.c_int64),)

    monkeypatch.setattr(native, "CTensor", Grown)
    with pytest.raises(NativeLibraryError, match="struct sizes"):
        native._check_abi(native._open(native.LIBRARY), native.LIBRARY)


def test_missing_and_foreign_library(tmp_path: Path) -> None:
    with pytest.raises(NativeLibraryError, match="is missing"):
        native._open(tmp_path / "libmxnet_trt.so")
    foreign = tmp_path / "libmxnet_trt.so"
    foreign.write_text("no library at all")
    with pytest.raises(NativeLibraryError, match="cannot be loaded"):
        native._open(foreign)


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_a_callback_lets_no_exception_out(error: BaseException) -> None:
    lib = native.library()

    def work() -> None:
        raise error

    assert native._guard(lib, work)() == native.FAIL
    text = lib.mxtrt_error().decode()
    assert type(error).__name__ in text
    assert "Traceback" in text
    assert native._guard(lib, lambda: None)() == native.OK


def test_a_bug_in_a_session_reaches_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: Any) -> None:
        raise LookupError("a bug in the session")

    monkeypatch.setenv("MXNET_TENSORRT_ON_ERROR", "raise")
    with backend("TensorRT"):
        executor = mlp().simple_bind(mx.cpu(), grad_req="null", data=(2, 5))
    monkeypatch.setattr(session.Session, "forward", forward)
    with pytest.raises(mx.MXNetError, match="LookupError: a bug in the session"):
        executor.forward()[0].wait_to_read()
    monkeypatch.undo()
    fill(executor, random_arrays(mlp(), {"data": (2, 5)}))
    with backend("NONE"):
        stock = mlp().simple_bind(mx.cpu(), grad_req="null", data=(2, 5))
    fill(stock, random_arrays(mlp(), {"data": (2, 5)}))
    assert relative_error(executor.forward()[0], stock.forward()[0]) < 1e-5


def test_a_pass_that_nobody_announced_takes_nothing() -> None:
    package_backend.load_native()
    from mxnet_trt_property.stock import stock

    symbol = mlp()
    untouched = stock.optimize_for(symbol, "TensorRT")
    assert "_TensorRT" not in untouched.tojson()
    assert "_TensorRT" not in stock.get_backend_symbol(symbol, "TensorRT").tojson()


EXIT_WITH_WORK = """
import os
os.environ["MXNET_SUBGRAPH_BACKEND"] = "TensorRT"
import mxnet as mx
net = mx.sym.Variable("data")
for i in range(3):
    net = mx.sym.FullyConnected(net, num_hidden=256, name=f"fc{i}")
executor = net.simple_bind(mx.cpu(), grad_req="null", data=(64, 256))
for _ in range(50):
    executor.forward()
"""


def test_exit_with_forwards_under_way() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT_WITH_WORK], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_states_tell_when_they_ran_and_let_go_of_their_replays() -> None:
    executors = [bound(mlp(), "TensorRT", {"data": (2, 5)}) for _ in range(2)]
    first, second = (executor.tensorrt.sessions[0].state_id for executor in executors)
    assert native.last_use(first) == native.last_use(second) == 0
    for executor in (executors[1], executors[0]):
        executor.forward()[0].wait_to_read()
    assert 0 < native.last_use(second) < native.last_use(first) < native.clock()
    assert native.release_replays(first)
    assert native.release_replays(-1), "a state that is gone has none"
    assert native.last_use(-1) == 0
