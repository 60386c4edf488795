"""Exception types of the package, and the one form that its messages take.

A message says what happened and where (node, engine, file), what was found against what is
needed, and the next step. `message()` puts these parts together, so that every error reads alike.
"""

from __future__ import annotations

import re

_NEXT = " | next step: "
# What stands in front of the words of an extension that failed, and in front of MXNet's own.
_EXTENSION = re.compile(r"Extension Traceback:\n\t\[0\] (.*)", re.DOTALL)
_PLACE = re.compile(r'^  File ".*", line \d+\n', re.MULTILINE)
_KIND = re.compile(r"^(?:\w+Error: )+", re.MULTILINE)
_LOG_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")
_TRACEBACK = "\nTraceback (most recent call last):"


class TensorRTPropertyError(Exception):
    """Base of every error that this package raises on purpose."""


class SettingError(TensorRTPropertyError, ValueError):
    """A variable or option has a value that is not one of the valid ones."""


class ConversionError(TensorRTPropertyError):
    """A subgraph, or a node of it, could not be written as ONNX."""


class EngineError(TensorRTPropertyError):
    """An engine refused, failed to build or failed to run a subgraph."""


class DeviceMemoryError(EngineError):
    """There is too little memory on a GPU for an engine; there may be enough another time."""


class BuildInterruptedError(EngineError):
    """Ctrl-C stopped the build of an engine; the next forward builds it again."""


class FrozenWeightsError(TensorRTPropertyError):
    """Weights could not be frozen into a symbol, or a symbol's frozen weights cannot be had."""


class TrainingError(TensorRTPropertyError):
    """TensorRT nodes, which are for inference only, were asked for gradients."""


class NativeLibraryError(TensorRTPropertyError):
    """The native library is missing, was built for something else, or MXNet refused it."""


def message(what: str, *, found: str = "", required: str = "", next_step: str = "") -> str:
    """Returns one error text: what happened | found ... | required ... | next step.

    Args:
        what: What happened, naming the node, engine or file.
        found: What was found.
        required: What would have been right.
        next_step: What the reader can do now.
    """
    parts = [what]
    if found:
        parts.append(f"found: {found}")
    if required:
        parts.append(f"required: {required}")
    if next_step:
        parts.append(f"next step: {next_step}")
    return " | ".join(parts)


def brief(text: str) -> str:
    """Returns a `message` without its next step, as words to stand inside of another one."""
    what, *others = text.split(" | ")
    kept = [part[len("found: ") :] if part.startswith("found: ") else part for part in others]
    kept = [part for part in kept if not part.startswith("next step: ")]
    return f"{what} ({', '.join(kept)})" if kept else what


def next_step_of(text: str) -> str:
    """Returns the next step that a `message` ends with, or ""."""
    return text.rpartition(_NEXT)[2] if _NEXT in text else ""


def mxnet_words(error: BaseException) -> str:
    """Returns the words of an error that MXNet raised, without the list of arguments and places that it adds to them.

    Where a callback of this package failed on purpose, these are its `message`; its traceback is left out. An error of
    this package itself keeps all of its words.
    """
    text = str(error).strip()
    if isinstance(error, TensorRTPropertyError):
        return text
    extension = _EXTENSION.search(text)
    if extension is not None:
        words, _, trace = extension.group(1).strip().partition(_TRACEBACK)
        # Anything but a message of ours is a fault, which the traceback helps to find.
        return words if " | " in words or not trace else f"{words}{_TRACEBACK}{trace}"
    words = _PLACE.split(text)[-1]
    kind = _KIND.search(words)
    return _LOG_PLACE.sub("", words[kind.end() :] if kind else words).strip()
