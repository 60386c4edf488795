"""The programs in examples/, as a user runs them: what they print, whether it is MXNet's result, and their status."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mxnet_trt_property.session import Report

FOLDER = Path(__file__).resolve().parents[1] / "examples"
NAMES = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in ("common", "mxnet_1_3"))
# What each prints besides, as regular expressions; its time on two slow cores is below a minute.
PRINTS = {
    "batch_dask": [r"500 files in 16 pieces, accuracy 9\d\.\d%", r"2 worker process"],
    "classify_image": [
        r"(?s)MXNet +accuracy.*: 9\d\.\d%.*TensorRT +accuracy.*: 9\d\.\d%",
        r"digit.png, which shows a 8: 8",
    ],
    "detect_shapes": [r"(square|disc) +[01]\.\d+ at \(", r"written to found.png", r"\d\d of the \d\d shapes in 50 new"],
    "embed_bert": [r"is nearest to", r"has the topic of the new one: (9\d|100)%"],
    "forecast_lstm": [r"LSTM 0\.\d+", r"a week ago: .*is \d\d% of it", r"a day ago: .*is \d\d% of it"],
    "score_module": [r"TensorRT +500 rows scored, accuracy 9\d\.\d%"],
    "serve_threads": [r"TensorRT, an executor each +1 thread", r"one compiled model +1 thread.*\(1\.00 x\)"],
}


def run(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # ONNX Runtime, since a test must not depend on the machine's GPU.
    environment = {**os.environ, "MXNET_TENSORRT_ENGINE": "onnxruntime", **variables}
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)


def test_every_example_is_tested_and_told() -> None:
    assert set(PRINTS) == set(NAMES)
    readme = (FOLDER / "README.md").read_text()
    for name in (*NAMES, "mxnet_1_3"):
        assert f"[{name}.py]({name}.py)" in readme


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_output(name: str, tmp_path: Path) -> None:
    more = ("--out", str(tmp_path / "found.png")) if name == "detect_shapes" else ()
    done = run(name, "--seconds", "0.2", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (*PRINTS[name], r"(?m)^TensorRT nodes: [1-9]\d* operators in \d+ node\(s\), run by onnxruntime$"):
        assert re.search(words, done.stdout), (words, done.stdout)
    assert re.search(r"difference from stock MXNet: \S+ \(limit 1e-05\): agrees", done.stdout)
    assert re.search(r"\(\d+\.\d\d x\)", done.stdout), "a speed"
    if more:
        assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_help() -> None:
    for name in NAMES:  # they have one parser
        assert "options = arguments(__doc__" in (FOLDER / f"{name}.py").read_text()
    done = run("batch_dask", "--help")
    assert done.returncode == 0, done.stderr
    for words in ("Scores a folder of image files offline", "--seconds", "--scheduler", "(default: 2)"):
        assert words in done.stdout


@pytest.mark.slow
def test_classification_of_a_given_file(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((40, 40), np.uint8)
    pixels[4:36, 17:23] = 255
    image.fromarray(pixels).save(tmp_path / "one.png")
    done = run("classify_image", "--image", str(tmp_path / "one.png"), "--seconds", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "one.png, which shows a ?: 1 (" in done.stdout


@pytest.mark.slow
def test_a_run_without_tensorrt_nodes_fails() -> None:
    done = run("score_module", "--seconds", "0.1", MXNET_TENSORRT_MIN_SUBGRAPH_SIZE="100")
    assert done.returncode == 1, done.stdout
    assert "run by nothing" in done.stdout and "DISAGREES" in done.stdout


def test_the_verdict(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("common_of_examples", FOLDER / "common.py")
    assert spec is not None and spec.loader is not None
    common: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(common)
    ran = [Report("tensorrt0", "onnxruntime", 7, 1, 1, 0, 0, 0, 0, 0)]
    x = np.float32([1, 2, 3])
    assert common.verdict(x, x, ran) == 0
    assert "7 operators in 1 node(s), run by onnxruntime" in capsys.readouterr().out
    assert common.verdict(x * np.float32(1.001), x, ran) == 1
    assert common.verdict(x * np.float32(1.001), x, [ran[0]._replace(engine="tensorrt_rtx")]) == 0, "TF32"
    assert common.verdict(x * np.nan, x, ran) == 1
    assert common.verdict(x, x, [ran[0]._replace(engine="")]) == 1
    monkeypatch.setenv("MXNET_SUBGRAPH_BACKEND", "before")
    for name, value in (("MXNet", None), ("TensorRT", "TensorRT")):
        with common.backend(name):
            assert os.environ.get("MXNET_SUBGRAPH_BACKEND") == value
    assert os.environ["MXNET_SUBGRAPH_BACKEND"] == "before"
