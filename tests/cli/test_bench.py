"""`mxnet-trt bench`: what it prints and writes, and that it prints no time for a wrong result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mxnet_trt_property.cli import bench, bench_plot, bench_variants, main
from tests.cli.networks import environment, save
from tests.symbols import conv_bn, split_net

VARIANTS = ("mxnet", "blog loop", "forward", "compile", "limit", "floor")
QUICK = ("--seconds", "0.02", "--rounds", "5")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(conv_bn(), tmp_path_factory.mktemp("bench"), data=(2, 3, 8, 8))


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_ENGINE", "onnxruntime")


def call(*arguments: object) -> int:
    return main.main(["bench", *(str(a) for a in arguments), *QUICK])


def test_as_a_program(prefix: str, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "mxnet_trt_property", "bench", prefix, "--shape", "data=1,3,8,8"]
    done = subprocess.run(
        [*command, "--batch", "1,2", *QUICK, "--json", str(file)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(file.read_text())
    assert record["rounds"] == 5
    assert {"cpu", "cpus", "mxnet", "onnxruntime", "python"} <= set(record["machine"])
    assert [row["batch"] for row in record["rows"]] == [1, 2]
    for row in record["rows"]:
        assert set(row["milliseconds"]) == set(row["rounds"]) == set(row["spread"]) == set(VARIANTS)
        assert all(len(times) == 5 for times in row["rounds"].values())
        assert all(np.median(row["rounds"][n]) == pytest.approx(row["milliseconds"][n]) for n in VARIANTS)
        assert row["engine"] == "onnxruntime"
        assert row["taken"] == row["operators"] == 6
        assert row["unavailable"] == {}
        assert set(row["relative_error"]) == {"mxnet", "blog loop", "forward", "compile", "limit"}
        assert max(row["relative_error"].values()) < 1e-5
        assert set(row["argmax_agreement"].values()) == {1.0}
        times = row["milliseconds"]
        assert row["ratios"]["compile / limit"] == pytest.approx(times["compile"] / times["limit"])
        assert row["ratios"]["speed-up"] == pytest.approx(times["mxnet"] / times["blog loop"])
    lines = done.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("model"))
    assert len(lines) == head + 3
    places = [lines[head].index(" " + name) + 1 + len(name) for name in ("mxnet", "forward", "compile", "limit")]
    for line in lines[head + 1 :]:
        for place in places:  # right-aligned: a number ends where its heading does
            assert line[place - 1].isdigit() and not line[place : place + 1].strip()


def test_a_wrong_result_has_no_time(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = bench_variants._bound

    def wrong(*arguments: Any) -> Any:
        variant, bound = honest(*arguments)
        read = variant.outputs
        assert read is not None
        return bench_variants.Variant(
            variant.name, variant.call, variant.feed, lambda: [o * 1.001 for o in read()]
        ), bound

    monkeypatch.setattr(bench_variants, "_bound", wrong)
    file = tmp_path / "bench.json"
    assert call(prefix, "--shape", "data=1,3,8,8", "--batch", "2", "--json", file) == 1
    printed = capsys.readouterr().out
    assert "WRONG RESULT: compile is off by a relative error of 1.0e-03; 1e-05 is allowed" in printed
    row = json.loads(file.read_text())["rows"][0]
    assert row["milliseconds"] == row["rounds"] == {}
    assert row["wrong"].startswith("compile")


def test_a_result_that_does_not_follow_the_input_is_wrong(
    prefix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = bench_variants._limit

    def stuck(*arguments: Any) -> Any:
        variant = honest(*arguments)
        fed: list[bool] = []

        def feed(inputs: Any) -> None:
            if len(fed) < 2:  # the warm-up and the first comparison
                variant.feed(inputs)
            fed.append(True)

        return bench_variants.Variant(variant.name, variant.call, feed, variant.outputs)

    monkeypatch.setattr(bench_variants, "_limit", stuck)
    assert call(prefix, "--shape", "data=1,3,8,8", "--batch", "2") == 1
    assert "WRONG RESULT: limit" in capsys.readouterr().out


def test_what_cannot_be_compiled_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix, file = save(split_net(), tmp_path, data=(2, 5)), tmp_path / "bench.json"
    assert call(prefix, "--shape", "data=1,5", "--batch", "2", "--json", file) == 0
    row = json.loads(file.read_text())["rows"][0]
    assert set(row["milliseconds"]) == {"mxnet", "blog loop", "forward", "floor"}
    assert (row["taken"], row["operators"], row["subgraphs"]) == (4, 5, 2)
    assert "no compile, limit: The network cannot be compiled as a whole" in capsys.readouterr().out


def test_skipped_variants(prefix: str, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    skip = "mxnet, floor,blog loop"
    assert call(prefix, "--shape", "data=1,3,8,8", "--batch", "1", "--skip", skip, "--json", file) == 0
    assert set(json.loads(file.read_text())["rows"][0]["milliseconds"]) == {"forward", "compile", "limit"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--rounds", "4"), "--rounds is too small"),
        (("--batch", "1,x"), "--batch has a value"),
        (("--batch", "0"), "--batch has a value"),
        (("--skip", "warp"), "found: warp"),
        (("--precision", "fp7"), "fp7"),
        (("--shape", "data"), "--shape has a value"),
        (("--models", "resnet18_v2"), "both a PREFIX and --models"),
    ],
)
def test_arguments_that_are_not_valid(
    prefix: str, arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["bench", prefix, "--seconds", "0.02", *arguments]) == 1
    assert text in capsys.readouterr().err


def test_a_network_that_the_zoo_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--models", "resnet19") == 1
    assert "no network 'resnet19'" in capsys.readouterr().err


def test_plot(prefix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "bench.svg"
    assert call(prefix, "--shape", "data=1,3,8,8", "--batch", "1,2", "--plot", file) == 0
    text = file.read_text()
    assert "<svg" in text
    for word in (*VARIANTS, "batch 1", "batch 2", "net, fp32"):
        assert f">{word}<" in text


def test_plot_without_matplotlib(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(bench, "measure", None)  # not reached: nothing is measured first
    assert call(prefix, "--plot", tmp_path / "bench.svg") == 1
    assert "mxnet-trt-property[plot]" in capsys.readouterr().err


def test_nothing_to_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(bench_plot.PlotError, match="nothing to draw"):
        bench_plot.draw([], "", tmp_path / "bench.svg")


def test_a_near_tie_is_no_wrong_argmax() -> None:
    expected = [np.array([[1.0, 0.9999, 0.0], [0.0, 1.0, 0.5]])]
    assert bench.argmax_agreement(expected, expected) == (1.0, 0.0)
    agreement, margin = bench.argmax_agreement([np.array([[0.9999, 1.0, 0.0], [0.0, 1.0, 0.5]])], expected)
    assert (agreement, margin) == (0.5, pytest.approx(1e-4))
    assert bench.argmax_agreement([np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 1.0]])], expected)[1] == 0.5


def test_variants_are_timed_in_turns() -> None:
    order: list[str] = []
    variants = [bench_variants.Variant(n, lambda n=n: order.append(n), lambda arrays: None) for n in "abc"]
    found = bench.interleave(variants, 5, 0.0)
    assert {name: len(times) for name, times in found.items()} == {"a": 5, "b": 5, "c": 5}
    turns = [n for i, n in enumerate(order[12:]) if i == 0 or order[12 + i - 1] != n]  # without 4 of each to warm up
    assert "".join(turns).startswith("abcbcacab")
