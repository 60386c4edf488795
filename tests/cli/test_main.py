"""The console script itself: without a command, into a closed pipe, and interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mxnet_trt_property.cli import explain, main
from tests.cli.networks import environment
from tests.symbols import mlp


def test_without_a_command_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: mxnet-trt")
    assert all(f"\n    {name}" in err for name in ("demo", "explain", "doctor"))


def test_a_reader_that_has_read_enough(tmp_path: Path) -> None:
    mlp().save(str(tmp_path / "net-symbol.json"))
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mxnet_trt_property", "explain", str(tmp_path / "net"), "--nodes"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(),
        )
    finally:
        os.close(write)
    assert done.returncode == 128 + 13
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(explain, "run", interrupted)
    assert main.main(["explain", "net"]) == 128 + 2
    assert capsys.readouterr().err == "mxnet-trt: interrupted\n"
