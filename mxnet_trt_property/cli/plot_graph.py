"""The pictures of a network before and after partitioning, as boxes and edges, and as text for Graphviz.

Operators that follow each other without a branch share a box with a line for each, so that a network of some hundred
operators fits on a page. Weights are not shown.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

from mxnet_trt_property import convert
from mxnet_trt_property.graph import Entry, Node, Tensor
from mxnet_trt_property.partition import Partition

# Fill and border by kind of box; light enough for black text.
COLOURS = {
    "tensorrt": ("#9ed436", "#4d7a00"),
    "taken": ("#e6f3cc", "#76b900"),
    "mxnet": ("#ffe0b8", "#e07b00"),
    "value": ("#f2f2f2", "#8c8c8c"),
}
_GREY = "#444444"
_NAME_WIDTH = 36
_REASON_WIDTH = 56
_LISTED_OPERATORS = 8
# Parameters that tell what a node does, whatever its operator.
_TELLING = ("act_type", "pool_type", "kernel")
# Between columns: two, since viewers' fonts may be wider than the one that Graphviz measured.
_GAP = "&#160;&#160;"
# What XML 1.0 has no way to write.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Line(NamedTuple):
    """A line of a box: what in bold, whose name and output shape beside it."""

    what: str
    name: str = ""
    shape: str = ""


@dataclass
class Box:
    """A box of a picture.

    Attributes:
        kind: One of `COLOURS`.
        lines: Its lines, top to bottom in the order of computation.
        notes: Sentences below them.
        group: The TensorRT node that this box is, or -1.
    """

    kind: str
    lines: list[Line] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    group: int = -1


@dataclass
class Picture:
    """Boxes by id, an identifier, and edges between them, with a title."""

    title: str
    boxes: dict[str, Box] = field(default_factory=dict)
    edges: dict[tuple[str, str], None] = field(default_factory=dict)


def before(partition: Partition, tensors: Mapping[Entry, Tensor]) -> Picture:
    """Returns the network as MXNet has it, coloured by what will become of each operator."""
    title = f"before: {_count(len(partition.decisions), 'operator')} of MXNet"
    return _draw(title, partition, tensors, partition.decisions, is_folded=False)


def after(partition: Partition, tensors: Mapping[Entry, Tensor]) -> Picture:
    """Returns the network with its TensorRT nodes; what stays with MXNet has its reason."""
    title = f"after: {_count(partition.subgraph_count, 'TensorRT node')}"
    if partition.refused:
        title += f", {_count(len(partition.refused), 'operator')} of MXNet"
    return _draw(title, partition, tensors, partition.decisions, is_folded=True)


def inside(partition: Partition, tensors: Mapping[Entry, Tensor], group: int) -> Picture:
    """Returns the operators in one TensorRT node, with what they read from outside and what is read there."""
    members = [i for i, decision in partition.decisions.items() if decision.group == group]
    return _draw(f"inside TensorRT node {group}", partition, tensors, members, is_folded=False)


def groups(partition: Partition) -> list[int]:
    """Returns the numbers of the TensorRT nodes, as `explain` has them."""
    return sorted(partition.members)


def _draw(
    title: str,
    partition: Partition,
    tensors: Mapping[Entry, Tensor],
    members: Collection[int],
    is_folded: bool,
) -> Picture:
    """Draws the operators with ids `members`; `is_folded` makes one box of each TensorRT node."""
    graph, decisions = partition.graph, partition.decisions
    roles = convert.variable_roles(graph, lambda node: True)
    shown = {i: _sources(graph.nodes[i], roles) for i in members}
    picture = Picture(title)
    box_of = _boxes_of(partition, shown, is_folded)
    for i, name in box_of.items():
        decision = decisions[i]
        if name not in picture.boxes:
            kind = "mxnet" if not decision.taken else "tensorrt" if is_folded else "taken"
            notes = (decision.reason,) if is_folded and decision.reason is not None else ()
            picture.boxes[name] = Box(kind, [], notes, decision.group if is_folded else -1)
        picture.boxes[name].lines.append(_line(graph.nodes[i], tensors))
    for box in picture.boxes.values():
        if box.group >= 0:
            box.lines = list(_summary(box.group, box.lines))
    for i, entries in shown.items():
        for entry in entries:
            source = box_of.get(entry.node)
            if source is None:
                source = f"in{entry.node}_{entry.index}"
                line = _line(graph.nodes[entry.node], tensors, entry.index)
                picture.boxes.setdefault(source, Box("value", [line._replace(what="input")]))
            if source != box_of[i]:
                picture.edges[source, box_of[i]] = None
    for number, entry in enumerate(_results(partition, shown)):
        line = _line(graph.nodes[entry.node], tensors, entry.index)
        picture.boxes[f"out{number}"] = Box("value", [Line("output", shape=line.shape)])
        picture.edges[box_of[entry.node], f"out{number}"] = None
    return picture


def _sources(node: Node, roles: Mapping[int, convert.Role]) -> list[Entry]:
    return [entry for entry in dict.fromkeys(node.inputs) if roles.get(entry.node, "input") == "input"]


def _results(partition: Partition, shown: Collection[int]) -> Iterator[Entry]:
    """Yields what the shown operators give to others: heads of the graph, and what operators not shown read."""
    graph = partition.graph
    outside = (e for node in graph.operators if node.id not in shown for e in node.inputs)
    yield from dict.fromkeys(entry for entry in (*graph.heads, *outside) if entry.node in shown)


def _boxes_of(partition: Partition, shown: Mapping[int, list[Entry]], is_folded: bool) -> dict[int, str]:
    """Returns the id of each operator's box, in the order of computation."""
    heads = {entry.node for entry in partition.graph.heads}
    readers: Counter[int] = Counter(i for sources in shown.values() for i in {entry.node for entry in sources})
    found: dict[int, str] = {}
    for i, sources in shown.items():
        decision = partition.decisions[i]
        before_it = {entry.node for entry in sources}
        found[i] = f"group{decision.group}" if is_folded and decision.taken else f"node{i}"
        if len(before_it) == 1 and not (is_folded and decision.taken):
            (previous,) = before_it
            is_chain = previous in found and readers[previous] == 1 and previous not in heads
            if is_chain and _fate(partition, previous) == _fate(partition, i):
                found[i] = found[previous]
    return found


def _fate(partition: Partition, node: int) -> tuple[int, Optional[str]]:
    decision = partition.decisions[node]
    return decision.group, decision.reason


def _line(node: Node, tensors: Mapping[Entry, Tensor], index: int = 0) -> Line:
    tensor = tensors.get(Entry(node.id, index))
    shape = "" if tensor is None or tensor.shape is None else "×".join(map(str, tensor.shape)) or "scalar"
    return Line(" ".join([node.op, *_parameters(node)]), node.name, shape)


def _parameters(node: Node) -> Iterator[str]:
    for key in _TELLING:
        if node.attrs.get(key):
            words = "×".join(re.findall(r"\w+", node.attrs[key]))
            yield f"({words})" if words.isdigit() else words


def _summary(group: int, lines: Iterable[Line]) -> Iterator[Line]:
    counts = Counter(line.what.split(" ", maxsplit=1)[0] for line in lines)
    yield Line(f"TensorRT node {group}", name=_count(sum(counts.values()), "operator"))
    for operator, count in counts.most_common(_LISTED_OPERATORS):
        yield Line("", name=f"{count} {operator}")
    if len(counts) > _LISTED_OPERATORS:
        yield Line("", name=f"and {_count(len(counts) - _LISTED_OPERATORS, 'kind')} more")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def dot(pictures: Mapping[str, Picture], links: bool = False) -> str:
    """Returns pictures side by side, as the text of one Graphviz graph.

    Args:
        pictures: The pictures by a prefix of their ids, an identifier.
        links: Whether TensorRT nodes link to #tensorrt<number>.
    """
    font = 'fontname="Helvetica,Arial,sans-serif"'
    lines = [
        "digraph network {",
        f'  id="picture_{"_".join(pictures)}";',
        f"  graph [{font} fontsize=14 nodesep=0.2 ranksep=0.3 pad=0.1];",
        f'  node [{font} fontsize=10 shape=box style="filled,rounded" margin="0.1,0.05" height=0.25];',
        f'  edge [arrowsize=0.6 color="{_GREY}"];',
    ]
    for prefix, picture in pictures.items():
        lines.append(f'  subgraph "cluster_{prefix}" {{')
        lines.append(f'    label=<<B>{_escaped(picture.title)}</B>>; id="{prefix}"; peripheries=0; margin=8;')
        for name, box in picture.boxes.items():
            fill, border = COLOURS[box.kind]
            link = f' URL="#tensorrt{box.group}"' if links and box.group >= 0 else ""
            lines.append(
                f'    "{prefix}_{name}" [id="{prefix}_{name}" label=<{_label(box)}> fillcolor="{fill}" '
                f'color="{border}"{link}];'
            )
        for source, target in picture.edges:
            lines.append(f'    "{prefix}_{source}" -> "{prefix}_{target}" [id="{prefix}_{source}_{target}"];')
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


def _label(box: Box) -> str:
    """Returns a box's text as Graphviz's own kind of HTML."""
    rows = [_row(line) for line in box.lines]
    for note in box.notes:
        words = '<BR ALIGN="LEFT"/>'.join(_escaped(part) for part in textwrap.wrap(note, _REASON_WIDTH))
        words = f'<I>{words}<BR ALIGN="LEFT"/></I>'
        rows.append(f'<TR><TD COLSPAN="3" ALIGN="LEFT" BALIGN="LEFT">{words}</TD></TR>')
    return f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="1">{"".join(rows)}</TABLE>'


def _row(line: Line) -> str:
    name = (
        line.name
        if len(line.name) <= _NAME_WIDTH
        else f"{line.name[: _NAME_WIDTH // 2]}…{line.name[-_NAME_WIDTH // 2 :]}"
    )
    cells = []
    if line.what:
        cells.append(f"<B>{_escaped(line.what)}{_GAP}</B>")
    if name:
        cells.append(f'<FONT COLOR="{_GREY}">{_escaped(name)}{_GAP}</FONT>')
    if line.shape:
        cells.append(_escaped(line.shape))
    columns = [f'<TD ALIGN="LEFT">{cell}</TD>' for cell in cells] or ["<TD></TD>"]
    columns[-1] = columns[-1].replace("<TD", f'<TD COLSPAN="{4 - len(columns)}"', 1)
    return f"<TR>{''.join(columns)}</TR>"


def _escaped(text: str) -> str:
    """Returns text for Graphviz's HTML, where a backslash begins an escape as it does in its other texts.

    What XML cannot hold becomes a replacement character.
    """
    return html.escape(_NOT_XML.sub("\ufffd", text)).replace("\\", "\\\\")
