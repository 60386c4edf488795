"""Draws a network before and after partitioning: TensorRT nodes in green, what stays with MXNet with its reason.

The ending of the file chooses the format: .svg, .png, .pdf, or .html, where TensorRT nodes open to their operators.
Nothing is bound or built; see `mxnet-trt explain` for how nodes are judged and for --shape.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from mxnet_trt_property.cli import explain, plot_graph
from mxnet_trt_property.cli.demo import parse_shapes
from mxnet_trt_property.cli.plot_graph import Picture
from mxnet_trt_property.errors import TensorRTPropertyError, message

NAME = "plot"
FORMATS = (".svg", ".png", ".pdf", ".html")


class DrawingError(TensorRTPropertyError):
    """The picture cannot be drawn or written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("prefix", help="a checkpoint's PREFIX (PREFIX-symbol.json), or the .json file itself")
    parser.add_argument("--shape", action="append", metavar="NAME=N,C,H,W", default=[], help="an input and its shape")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the picture: " + ", ".join(FORMATS)
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the picture and prints what is in it; returns 0."""
    path: Path = arguments.output
    if path.suffix.lower() not in FORMATS:
        required = "a file that ends with " + ", ".join(FORMATS)
        raise DrawingError(message("-o has a format that is not known", found=str(path), required=required))
    _dot()  # before the network is read, which may take minutes
    verdict = explain.judge(arguments.prefix, parse_shapes(arguments.shape))
    try:
        path.write_bytes(draw(verdict, path.suffix.lower()))
    except OSError as error:
        raise DrawingError(message(f"The picture {path} cannot be written", found=str(error))) from error
    found = verdict.partition
    print(f"{path}: {len(found.taken)} of {len(found.decisions)} nodes in {found.subgraph_count} TensorRT node(s)")
    return 0


def draw(verdict: explain.Verdict, suffix: str) -> bytes:
    """Returns the contents of a file that ends with `suffix`, one of FORMATS.

    Raises:
        DrawingError: Graphviz is missing or fails.
    """
    if suffix == ".html":
        return page(verdict).encode()
    partition, tensors = verdict.partition, verdict.tensors
    pictures = {"before": plot_graph.before(partition, tensors), "after": plot_graph.after(partition, tensors)}
    return _render(plot_graph.dot(pictures), suffix[1:])


def page(verdict: explain.Verdict) -> str:
    """Returns a page that needs no other file: both pictures, and one of each TensorRT node that opens at a click.

    Raises:
        DrawingError: Graphviz is missing or fails.
    """
    partition, tensors = verdict.partition, verdict.tensors
    nodes = []
    for group in plot_graph.groups(partition):
        count = len(partition.members[group])
        picture = _svg({f"inside{group}": plot_graph.inside(partition, tensors, group)})
        # A link to something inside <details> opens it.
        nodes.append(
            f"<details><summary>TensorRT node {group}: {count} operators</summary>"
            f'<div id="tensorrt{group}">{picture}</div></details>'
        )
    return _PAGE.format(
        title=html.escape(verdict.file.name),
        taken=plot_graph.COLOURS["taken"][0],
        tensorrt=plot_graph.COLOURS["tensorrt"][0],
        mxnet=plot_graph.COLOURS["mxnet"][0],
        before=_svg({"before": plot_graph.before(partition, tensors)}),
        after=_svg({"after": plot_graph.after(partition, tensors)}, links=True),
        nodes="\n".join(nodes),
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 14px Helvetica, Arial, sans-serif; margin: 16px; }}
section, details > div {{ overflow-x: auto; }}
summary {{ cursor: pointer; padding: 6px; margin: 4px 0; background: {tensorrt}; border-radius: 6px; }}
.key {{ padding: 2px 8px; border-radius: 6px; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p><span class="key" style="background: {taken}">goes into a TensorRT node</span>
<span class="key" style="background: {tensorrt}">TensorRT node; a click shows its operators</span>
<span class="key" style="background: {mxnet}">stays with MXNet, with the reason</span></p>
<p><a href="#network-before">before</a> <a href="#network-after">after</a></p>
<section id="network-after">{after}</section>
{nodes}
<section id="network-before">{before}</section>
</body>
</html>
"""


def _svg(pictures: Mapping[str, Picture], links: bool = False) -> str:
    """Returns pictures as an <svg> element for a page."""
    text = _render(plot_graph.dot(pictures, links), "svg").decode()
    return text[text.index("<svg") :]


def _render(text: str, kind: str) -> bytes:
    """Returns what Graphviz makes of a graph.

    Raises:
        DrawingError: Graphviz is missing or fails.
    """
    # Not by way of the package graphviz: MXNet holds it at versions that lose what the program says.
    done = subprocess.run([_dot(), f"-T{kind}"], input=text.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        words = " ".join(done.stderr.decode(errors="replace").split())
        raise DrawingError(message("Graphviz cannot draw the network", found=words or f"status {done.returncode}"))
    # Browsers show titles when the pointer rests on something: the ids of boxes and edges, which mean nothing.
    return re.sub(rb"<title>[^<]*</title>\s*", b"", done.stdout) if kind == "svg" else done.stdout


def _dot() -> str:
    """Returns the path of Graphviz's program.

    Raises:
        DrawingError: It is not installed.
    """
    path = shutil.which("dot")
    if path is None:
        what = "plot needs Graphviz's program dot, which no Python package holds"
        step = "apt-get install graphviz (the package's name in Debian and Ubuntu), or your system's equivalent"
        raise DrawingError(message(what, found="no dot on PATH", next_step=step))
    return path
