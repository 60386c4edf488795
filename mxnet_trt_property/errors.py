"""Exception types of the package, and the one form that its messages take.

A message says what happened and where (node, engine, file), what was found against what is
needed, and the next step. `message()` puts these parts together, so that every error reads alike.
"""

from __future__ import annotations


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
