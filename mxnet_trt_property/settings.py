"""Every environment variable of the package in one table, and the one parser that reads them.

The variables are read at each use, as MXNet reads its own: programs set `os.environ` in mid-run. The lower-case
names without the prefix are the options of `Symbol.optimize_for('TensorRT', ...)` and of `hybridize`; a given
option goes before the variable.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from mxnet_trt_property.errors import SettingError, message
from mxnet_trt_property.logs import warn_once

PREFIX = "MXNET_TENSORRT_"
BACKEND = "TensorRT"
BACKEND_VARIABLE = "MXNET_SUBGRAPH_BACKEND"
OLD_SWITCH = "MXNET_USE_TENSORRT"

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")

Profiles = tuple[tuple[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]], ...]
"""For each input its name, and its smallest shape, the one to tune for, and its largest."""


@dataclass(frozen=True)
class Variable:
    """One row of the table.

    Attributes:
        name: The name after the prefix.
        kind: "choice", "flag", "integer", "names" (comma-separated), "path" or "profiles".
        default: The text that counts when the variable is unset or empty.
        help: What it does, for the README's table.
        choices: The valid values of a choice.
        minimum: The smallest valid integer.
        unit: The unit of an integer.
        is_option: Whether it is also an option of optimize_for and hybridize.
        installed: Returns more values of a choice, those that packages installed here bring. Asked only where a text is
            none of `choices`, and for the message of a value that is not valid.
    """

    name: str
    kind: str
    default: str
    help: str
    choices: tuple[str, ...] = ()
    minimum: int = 0
    unit: str = ""
    is_option: bool = True
    installed: Optional[Callable[[], Sequence[str]]] = None

    @property
    def valid(self) -> str:
        """The valid values in words, wherever the package is installed."""
        return self._valid(self.choices)

    def _valid(self, choices: Sequence[str]) -> str:
        return {
            "choice": "one of " + ", ".join(choices),
            "flag": "0 or 1",
            "integer": f"a whole number from {self.minimum} up" + (f" ({self.unit})" if self.unit else ""),
            "names": "names separated by commas",
            "path": "a path",
            "profiles": "{'input': (smallest shape, shape to tune for, largest shape), ...}",
        }[self.kind]

    def parse(self, text: str, origin: str) -> Any:
        """Returns the value of `text`; an empty text means the default.

        Args:
            text: The text to parse.
            origin: Where it came from, for the message.

        Raises:
            SettingError: The text is not a valid value.
        """
        text = text.strip() or self.default
        lowered = text.lower()
        choices = self.choices
        if self.kind == "choice" and lowered in choices:
            return lowered
        if self.kind == "choice" and self.installed is not None:
            choices = (*choices, *(name for name in self.installed() if name not in choices))
            found = [name for name in choices if name.lower() == lowered]
            if found:
                return found[0]
        if self.kind == "flag" and lowered in _TRUE + _FALSE:
            return lowered in _TRUE
        if self.kind == "integer":
            try:
                number = int(text)
            except ValueError:
                number = self.minimum - 1
            if number >= self.minimum:
                return number
        if self.kind == "names":
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if self.kind == "path":
            return Path(text).expanduser() if text else None
        if self.kind == "profiles" and (profiles := _parse_profiles(text)) is not None:
            return profiles
        raise SettingError(
            message(
                f"{origin} has a value that is not valid",
                found=repr(text),
                required=self._valid(choices),
                next_step=f"set a valid value or unset it (the default is {self.default or 'empty'})",
            )
        )


def _installed_engines() -> Sequence[str]:
    from mxnet_trt_property.engines import registry

    return registry.names()


def _parse_profiles(text: str) -> Optional[Profiles]:
    """Returns the profiles in a text, a dictionary of Python or JSON, or None where they are not valid."""
    try:
        rows = ast.literal_eval(text or "{}")
        found = []
        for name, shapes in rows.items():
            smallest, tuned, largest = (tuple(int(size) for size in shape) for shape in shapes)
            same_length = len(smallest) == len(tuned) == len(largest)
            if not same_length or not all(1 <= a <= b <= c for a, b, c in zip(smallest, tuned, largest)):
                return None
            found.append((str(name), (smallest, tuned, largest)))
    except (AttributeError, SyntaxError, TypeError, ValueError):
        return None
    return tuple(found)


VARIABLES = (
    Variable(
        "ENGINE",
        "choice",
        "auto",
        "Which library runs the subgraphs. `auto` takes the first usable one in the order of the list, then those that"
        " other packages bring, which have [names of their own](docs/engines.md).",
        ("auto", "tensorrt", "tensorrt_rtx", "onnxruntime"),
        installed=_installed_engines,
    ),
    Variable(
        "PRECISION",
        "choice",
        "fp32",
        "The precision that the engine computes in: `fp32` (TensorRT may use TF32 on the GPU), `fp16` or `bf16` where"
        " that is safe, `int8` where that is calibrated. Arrays keep their dtypes.",
        ("fp32", "fp16", "bf16", "int8"),
    ),
    Variable(
        "KEEP_FP32", "names", "", "Nodes (by name) and operators that compute in float32 whatever `PRECISION` is."
    ),
    Variable(
        "CALIBRATION_TABLE", "path", "", "The file of `mxnet-trt calibrate` that `PRECISION=int8` takes ranges from."
    ),
    Variable(
        "CALIBRATION_ITERS",
        "integer",
        "0",
        "How many first forwards `PRECISION=int8` calibrates on, in float32, where there is no table.",
    ),
    Variable(
        "CALIBRATION_METHOD",
        "choice",
        "entropy",
        "How `CALIBRATION_ITERS` makes ranges: the one whose quantized distribution loses least, or all that was met.",
        ("entropy", "minmax"),
    ),
    Variable("USE_FP16", "flag", "0", "The name in MXNet 1.5 to 1.7 for `PRECISION=fp16`.", is_option=False),
    Variable("USE_FP16_FOR_FP32", "flag", "0", "The name in MXNet 1.3 for `PRECISION=fp16`.", is_option=False),
    Variable("EXCLUDE_OPS", "names", "", "Operators (MXNet's names, such as `sigmoid`) that stay with MXNet."),
    Variable("EXCLUDE_NODES", "names", "", "Nodes, by name, that stay with MXNet."),
    Variable("MIN_SUBGRAPH_SIZE", "integer", "2", "Subgraphs of fewer operators stay with MXNet.", minimum=1),
    Variable(
        "ON_ERROR",
        "choice",
        "fallback",
        "When an engine fails: `fallback` goes on with the next engine and one warning, `raise` gives the error"
        " to the program.",
        ("fallback", "raise"),
    ),
    Variable("DEVICE", "integer", "0", "The GPU that serves arrays of `mx.cpu()`; arrays of `mx.gpu(i)` use GPU i."),
    Variable(
        "WORKSPACE_MB",
        "integer",
        "0",
        "The most scratch memory that a TensorRT engine may use; 0 leaves it to TensorRT.",
        unit="MiB",
    ),
    Variable(
        "REFIT",
        "choice",
        "auto",
        "Which engines are built so that new weights can be given to them without a build, which may cost speed:"
        " `auto` those whose weights have changed once, `always`, or `never`.",
        ("auto", "always", "never"),
    ),
    Variable("CACHE", "flag", "1", "Keep built engines on disk, so that the next process does not build them again."),
    Variable(
        "CACHE_DIR",
        "path",
        "",
        "The folder for them; empty is `mxnet-trt-property` under `XDG_CACHE_HOME` or `~/.cache`.",
    ),
    Variable(
        "CACHE_MB",
        "integer",
        "4096",
        "The most that the folder may hold; what was not used for longest goes first.",
        minimum=1,
        unit="MiB",
    ),
    Variable(
        "MAX_BATCH_SIZE",
        "integer",
        "0",
        "One engine serves all batches up to this size ([docs/dynamic-shapes.md](docs/dynamic-shapes.md)); with 0 an"
        " engine serves one set of shapes.",
    ),
    Variable(
        "PROFILES",
        "profiles",
        "",
        "One engine serves all shapes between the smallest and the largest; it goes before `MAX_BATCH_SIZE`.",
    ),
    Variable(
        "MAX_ENGINES",
        "integer",
        "64",
        "How many engines are held at most. One that was not used for the longest time is freed, and built again when"
        " it is needed.",
        minimum=1,
        is_option=False,
    ),
    Variable(
        "SPIN_US",
        "integer",
        "5000",
        "How long a thread that waits for a forward's results stays awake before it sleeps. A thread that slept gets"
        " them 20 to 60 us late. At most a quarter of the CPUs does so at once. Read when an executor is bound.",
        unit="us",
        is_option=False,
    ),
    Variable("VERBOSE", "flag", "0", "Log the engine's own messages too."),
    Variable(
        "REPORT",
        "path",
        "",
        "A file that gets, when the program ends, a JSON report of each TensorRT node: engine, operators, builds.",
        is_option=False,
    ),
    Variable(
        "AUTOLOAD",
        "flag",
        "1",
        "0 turns off the import hook; then `import mxnet_trt_property` does the same job.",
        is_option=False,
    ),
)
_BY_NAME = {v.name: v for v in VARIABLES}


@dataclass(frozen=True)
class Settings:
    """The values of one moment; see `VARIABLES` for each field's meaning."""

    engine: str
    precision: str
    keep_fp32: tuple[str, ...]
    calibration_table: Optional[Path]
    calibration_iters: int
    calibration_method: str
    exclude_ops: tuple[str, ...]
    exclude_nodes: tuple[str, ...]
    min_subgraph_size: int
    on_error: str
    device: int
    workspace_mb: int
    refit: str
    cache: bool
    cache_dir: Optional[Path]
    cache_mb: int
    max_batch_size: int
    profiles: Profiles
    verbose: bool


def read(options: Optional[Mapping[str, str]] = None) -> Settings:
    """Returns the settings of this moment.

    Args:
        options: Texts of options by lower-case name; they go before the variables.

    Raises:
        SettingError: A value is not valid, or an option is unknown.
    """
    options = dict(options or {})
    if "precision" in options:
        options["precision"] = _precision_of_1_9(options["precision"])
    elif not os.environ.get(PREFIX + "PRECISION") and (value("USE_FP16") or value("USE_FP16_FOR_FP32")):
        options["precision"] = "fp16"
    known = {v.name.lower() for v in VARIABLES if v.is_option}
    unknown = sorted(set(options) - known)
    if unknown:
        raise SettingError(
            message(
                "The TensorRT backend was given an option that it does not have",
                found=", ".join(unknown),
                required="options out of " + ", ".join(sorted(known)),
            )
        )
    _warn_of_unknown_variables()
    value("MAX_ENGINES")  # read when an engine is built, too late to say that it is not valid
    values = {name: value(name.upper(), options.get(name)) for name in sorted(known)}
    return Settings(**values)


def _precision_of_1_9(text: str) -> str:
    """Returns the precision that a combination of MXNet 1.9 asks for: 'fp16_int8' is 'int8', 'fp32_fp16' is 'fp16'."""
    parts = set(text.lower().split("_"))
    if len(parts) < 2 or not parts <= {"fp32", "fp16", "int8"}:
        return text
    return "int8" if "int8" in parts else "fp16"


def value(name: str, option: Optional[str] = None) -> Any:
    """Returns the value of one variable by its name after the prefix; `option` goes before the environment.

    Raises:
        SettingError: The value is not valid.
    """
    variable = _BY_NAME[name]
    if option is not None:
        return variable.parse(option, f"option {name.lower()} of the TensorRT backend")
    return variable.parse(os.environ.get(PREFIX + name, ""), PREFIX + name)


def backend_is_on() -> bool:
    """Whether the program asks for TensorRT now: MXNET_SUBGRAPH_BACKEND, or the switch of MXNet 1.3."""
    if os.environ.get(BACKEND_VARIABLE) == BACKEND:
        return True
    return os.environ.get(OLD_SWITCH, "") in _TRUE and not os.environ.get(BACKEND_VARIABLE)


def markdown_table() -> str:
    """Returns the table of variables for the README."""
    lines = ["| variable | default | values | what it does |", "|---|---|---|---|"]
    for v in VARIABLES:
        default = f"`{v.default}`" if v.default else "empty"
        lines.append(f"| `{PREFIX}{v.name}` | {default} | {v.valid} | {v.help} |")
    return "\n".join(lines) + "\n"


def _warn_of_unknown_variables() -> None:
    """Warns once of each variable with our prefix that this version does not have.

    Not an error: programs written for the TensorRT of older MXNet set variables that are gone.
    """
    names = {PREFIX + v.name for v in VARIABLES}
    for key in sorted(set(os.environ) - names):
        if key.startswith(PREFIX):
            warn_once(
                f"The variable {key} is not one that this version knows; it has no effect",
                required="variables out of " + ", ".join(sorted(names)),
                next_step="correct its name or unset it",
            )


if __name__ == "__main__":
    print(markdown_table(), end="")
