"""`mxnet-trt plot`: what is in the pictures, that each format is valid, and what is said where it cannot draw."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mxnet as mx
import pytest

from mxnet_trt_property.cli import explain, main, plot_graph
from mxnet_trt_property.cli.plot_graph import Picture
from tests.symbols import split_net

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz's dot: apt-get install graphviz")

NAMES = (
    'quo"ted',
    "<b>&amp;</b>",
    "back\\slash\\N\\n",
    "schön 模型",
    "{a|b}",
    "x" * 90,
    "it's",
    "-->",
)


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """A checkpoint's prefix with a network that is cut in two."""
    return save(split_net(), tmp_path)


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_ENGINE", "onnxruntime")


def save(symbol: Any, folder: Path) -> str:
    symbol.save(str(folder / "net-symbol.json"))
    return str(folder / "net")


def judge(symbol: Any, folder: Path, **shapes: tuple[int, ...]) -> tuple[Any, Any]:
    verdict = explain.judge(save(symbol, folder), shapes)
    return verdict.partition, verdict.tensors


def lines(picture: Picture) -> dict[str, list[str]]:
    """Returns the texts of each box."""
    return {key: [" ".join(filter(None, line)) for line in box.lines] for key, box in picture.boxes.items()}


def plot(prefix: str, file: Path, *arguments: str) -> bytes:
    assert main.main(["plot", prefix, "-o", str(file), *arguments]) == 0
    return file.read_bytes()


def texts(svg: Any) -> str:
    """Returns the words of an <svg> element, with a newline after each."""
    found = (element.text or "" for element in svg.iter() if element.tag.endswith("}text"))
    return "\n".join(text.replace("\xa0", " ").strip() for text in found)


def test_before_and_after(prefix: str) -> None:
    verdict = explain.judge(prefix, {"data": (2, 5)})
    before = plot_graph.before(verdict.partition, verdict.tensors)
    assert before.title == "before: 5 operators of MXNet"
    assert lines(before) == {
        "in0_0": ["input data 2×5"],
        "node3": ["FullyConnected fc1 2×6", "Activation sigmoid sigmoid1 2×6"],
        "node5": ["gammaln wave 2×6"],
        "node8": ["FullyConnected fc2 2×4", "Activation tanh tanh2 2×4"],
        "out0": ["output 2×4"],
    }
    assert list(before.edges) == [("in0_0", "node3"), ("node3", "node5"), ("node5", "node8"), ("node8", "out0")]
    assert [box.kind for box in before.boxes.values()].count("taken") == 2
    assert not any(box.notes for box in before.boxes.values())

    after = plot_graph.after(verdict.partition, verdict.tensors)
    assert after.title == "after: 2 TensorRT nodes, 1 operator of MXNet"
    assert lines(after)["group0"] == ["TensorRT node 0 2 operators", "1 FullyConnected", "1 Activation"]
    assert after.boxes["node5"].notes == ("operator gammaln has no conversion to TensorRT",)
    assert [(box.kind, box.group) for box in after.boxes.values() if box.kind != "value"] == [
        ("tensorrt", 0),
        ("mxnet", -1),
        ("tensorrt", 1),
    ]
    assert list(after.edges) == [("in0_0", "group0"), ("group0", "node5"), ("node5", "group1"), ("group1", "out0")]

    inside = plot_graph.inside(verdict.partition, verdict.tensors, 1)
    assert lines(inside) == {
        "node8": ["FullyConnected fc2 2×4", "Activation tanh tanh2 2×4"],
        "in5_0": ["input wave 2×6"],
        "out0": ["output 2×4"],
    }


def test_boxes_end_where_the_graph_branches(tmp_path: Path) -> None:
    x = mx.sym.Variable("x")
    first = mx.sym.tanh(mx.sym.relu(x, name="a"), name="b")
    square = mx.sym.elemwise_mul(first, first, name="square")
    joined = mx.sym.elemwise_add(square, mx.sym.sigmoid(first, name="c"), name="joined")
    partition, tensors = judge(mx.sym.Group([joined, mx.sym.relu(joined, name="last")]), tmp_path, x=(2, 3))
    before = plot_graph.before(partition, tensors)
    found = [[line.split()[1] for line in box] for key, box in lines(before).items() if key.startswith("node")]
    # `joined` is an output, and so the operator after it has a box of its own.
    assert sorted(found) == [["a", "b"], ["c"], ["joined"], ["last"], ["square"]]
    assert len(before.edges) == 8  # the two edges from b to square are one
    after = plot_graph.after(partition, tensors)
    assert after.title == "after: 1 TensorRT node"
    assert set(after.boxes) == {"group0", "in0_0", "out0", "out1"}
    assert set(after.edges) == {("in0_0", "group0"), ("group0", "out0"), ("group0", "out1")}


def test_without_shapes_and_with_many_kinds(tmp_path: Path) -> None:
    symbol = mx.sym.Variable("x")
    for operator in "relu tanh sigmoid exp sqrt square abs negative cos sin".split():
        symbol = getattr(mx.sym, operator)(symbol)
    partition, tensors = judge(symbol, tmp_path)
    after = lines(plot_graph.after(partition, tensors))
    assert after["in0_0"] == ["input x"]
    assert after["group0"][-1] == "and 2 kinds more"


@needs_dot
def test_formats(prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg = ElementTree.fromstring(plot(prefix, tmp_path / "net.svg", "--shape", "data=2,5"))
    assert capsys.readouterr().out == f"{tmp_path / 'net.svg'}: 4 of 5 nodes in 2 TensorRT node(s)\n"
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    for words in ("TensorRT node 1", "gammaln", "fc2", "2×4", "operator gammaln has no conversion to TensorRT"):
        assert words in texts(svg).splitlines()
    assert plot(prefix, tmp_path / "net.png").startswith(b"\x89PNG\r\n\x1a\n")
    assert plot(prefix, tmp_path / "NET.PDF").startswith(b"%PDF-")


class Page(HTMLParser):
    """Looks at what is open, at links, and at what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.inside_details: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        assert tag not in ("link", "script", "img", "iframe", "image", "use") and "src" not in given
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[key] for key in ("href", "xlink:href") if key in given]
        if "details" in self.open and "id" in given:
            self.inside_details.add(given["id"])
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@needs_dot
def test_page(prefix: str, tmp_path: Path) -> None:
    text = plot(prefix, tmp_path / "net.html", "--shape", "data=2,5").decode()
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    # What a TensorRT node links to is inside <details>, which opens for it.
    assert {"#tensorrt0", "#tensorrt1"} <= set(page.links)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert {"tensorrt0", "tensorrt1"} <= page.inside_details
    assert "url(" not in text
    pictures = [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    assert len(pictures) == 4
    assert "after: 2 TensorRT nodes" in texts(pictures[0])
    assert "sigmoid1" in texts(pictures[1])
    assert "tanh2" in texts(pictures[2])


@needs_dot
@pytest.mark.parametrize("suffix", [".svg", ".html"])
def test_names_are_escaped(tmp_path: Path, suffix: str) -> None:
    symbol = mx.sym.Variable('da"<ta>\\')
    for name in NAMES:
        symbol = mx.sym.relu(symbol, name=name)
    folder = tmp_path / "<i> & 'net'"
    folder.mkdir()
    text = plot(save(symbol, folder), tmp_path / f"net{suffix}").decode()
    for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        shown = texts(ElementTree.fromstring(found)).splitlines()
        if "before: 8 operators of MXNet" in shown:
            expected = [n if len(n) < 40 else "x" * 18 + "…" + "x" * 18 for n in NAMES]
            assert [line for line in shown if line in expected] == expected
            assert 'da"<ta>\\' in shown
            break
    else:
        raise AssertionError("no picture of the network before partitioning")


def test_what_xml_cannot_hold() -> None:
    picture = Picture("bell\x07", {"a": plot_graph.Box("mxnet", [plot_graph.Line("\ud800")], ("\x00 why",))}, {})
    assert not re.search("[\x00-\x08\ud800]", plot_graph.dot({"p": picture}))


@needs_dot
def test_an_empty_network(tmp_path: Path) -> None:
    plot(save(mx.sym.Variable("x"), tmp_path), tmp_path / "net.html")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("PREFIX", "-o", "net.gif"), "-o has a format that is not known | found: net.gif"),
        (("PREFIX", "-o", "net"), "required: a file that ends with .svg, .png, .pdf, .html"),
    ],
)
def test_arguments_that_are_not_valid(
    prefix: str, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["plot", *(prefix if a == "PREFIX" else a for a in arguments)]) == 1
    assert words in capsys.readouterr().err


@needs_dot
@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("missing/net.svg", "data=2,5", "cannot be written"),
        ("net.svg", "dat=2,5", "--shape names what is not there"),
        ("net.svg", "data=2,x", "NAME=1,3,224,224"),
    ],
)
def test_errors(
    prefix: str, tmp_path: Path, name: str, shape: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["plot", prefix, "--shape", shape, "-o", str(tmp_path / name)]) == 1
    assert words in capsys.readouterr().err


def test_without_dot(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main.main(["plot", prefix, "-o", str(tmp_path / "net.svg")]) == 1
    printed = capsys.readouterr().err
    assert "plot needs Graphviz's program dot" in printed
    assert "apt-get install graphviz" in printed


def test_dot_fails(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dot = tmp_path / "dot"
    dot.write_text("#!/bin/sh\n/bin/cat > /dev/null\necho 'out of ink' >&2\nexit 3\n")
    dot.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main.main(["plot", prefix, "-o", str(tmp_path / "net.svg")]) == 1
    assert "Graphviz cannot draw the network | found: out of ink" in capsys.readouterr().err
    assert not (tmp_path / "net.svg").exists()
