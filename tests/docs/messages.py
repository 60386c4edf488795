"""The messages that are written in the sources, each as text with `…` where something is filled in.

`python -m tests.docs.messages` prints those that docs/troubleshooting.md lacks, as rows to be completed there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
# Reasons of operators are no errors; docs/operators.md lists their conditions.
NOT_SEARCHED = ("operators",)
# In these files the name `what` is of an action, which becomes a part of one message.
ACTIONS = ("cuda_driver.py", "cuda_events.py", "cuda_graph.py")
GAP = "…"


def in_sources(with_plain_errors: bool = False) -> dict[str, list[str]]:
    """Returns the places (file and line) of each message.

    Args:
        with_plain_errors: Whether errors count that are raised without the form of messages. Most of them are caught,
            and become the part "found" of a message.
    """
    found: dict[str, list[str]] = {}
    package = ROOT / "mxnet_trt_property"
    for file in sorted(package.rglob("*.py")):
        if file.relative_to(package).parts[0] not in NOT_SEARCHED:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for line, text in _of_module(tree, file.name not in ACTIONS, with_plain_errors):
                found.setdefault(text, []).append(f"{file.relative_to(ROOT)}:{line}")
    for file in sorted((ROOT / "cpp").glob("*.cc")):
        for call in re.finditer(r'\bFail\(\s*((?:"(?:[^"\\]|\\.)*"\s*)+)', file.read_text(encoding="utf-8")):
            text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', call[1]))
            found.setdefault(text, []).append(str(file.relative_to(ROOT)))
    return found


def _of_module(tree: ast.Module, what_is_told: bool, with_plain_errors: bool) -> Iterator[tuple[int, str]]:
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.Module)):
            continue
        names: dict[str, list[ast.expr]] = {}
        for node in _own(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                names.setdefault(node.targets[0].id, []).append(node.value)
        # By this name the first part of a message is handed on to the function that makes it.
        texts = list(names.get("what", [])) if what_is_told else []
        for node in _own(function):
            if isinstance(node, ast.Call) and node.args and _tells(node, with_plain_errors):
                argument = node.args[0]
                texts += names.get(argument.id, []) if isinstance(argument, ast.Name) else [argument]
        for node in texts:
            text = _text(node)
            if text is not None and text.strip(GAP + "\n "):
                yield node.lineno, text


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """Walks what belongs to a function and not to one inside of it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from _own(child)


def _tells(call: ast.Call, with_plain_errors: bool) -> bool:
    """Whether a call makes the text of an error or a warning."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr == "warning"
    name = getattr(call.func, "id", "")
    return name in ("message", "warn_once", "warn_of_fallback", "_error") or (
        with_plain_errors and name.endswith("Error")
    )


def _text(node: ast.expr) -> Optional[str]:
    """Returns an expression's text, or None where it is made elsewhere (by `message`, which is found itself)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(\.\d+)?[a-z]", GAP, node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_text(node.left) or GAP) + (_text(node.right) or GAP)
    return GAP if isinstance(node, ast.IfExp) else None


def on_page() -> list[str]:
    """Returns the messages of the page: the first cells of its tables, without the marks of code."""
    rows = re.findall(r"^\| `(.+?)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [row.replace("\\|", "|") for row in rows]


if __name__ == "__main__":
    known = set(on_page())
    for text, places in in_sources().items():
        if text not in known:
            print(f"| `{text}` |  |  |   <- {', '.join(places)}")
