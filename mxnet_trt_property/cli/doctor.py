"""Tells what is installed here, which engines can run, what they say of each GPU, and whether activation works.

The exit status is 0 if MXNet can be imported and at least one engine can run, and 1 otherwise, with what to do then.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

import mxnet_trt_property
from mxnet_trt_property import settings
from mxnet_trt_property.cli import doctor_parts

NAME = "doctor"

_WIDTH = 100
_LABEL = 16
# What MXNet imports besides NumPy, by module; for Pythons without a NumPy that MXNet's metadata allows.
_OF_MXNET = {"requests": "requests<3", "graphviz": "graphviz<0.9"}
_NEEDS_NUMPY_2 = (3, 13)
_IN_IMPORT = " (during import)"  # how shims.applied() marks a name that is gone again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print the record as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the record; returns the exit status."""
    record = examine()
    print(json.dumps(record) if arguments.json else text(record))
    return 0 if record["usable"] and "error" not in record["mxnet"] else 1


def examine() -> dict[str, Any]:
    """Returns the record of this environment, as the command prints it with --json. Never raises."""
    with ThreadPoolExecutor(len(doctor_parts.PARTS) + 1) as pool:
        activation = pool.submit(doctor_parts.attempt, lambda: doctor_parts.activation(os.environ))
        record: dict[str, Any] = dict(zip(doctor_parts.PARTS, pool.map(doctor_parts.isolated, doctor_parts.PARTS)))
        record["activation"] = {"works": False, "engines": [], "warnings": [], **activation.result()}
    found = record.pop("engines")
    # Where the part as a whole failed there is neither a list of engines nor one of GPUs.
    record["engines"] = found.get("engines", [])
    record["gpus"] = found.get("gpus", {"error": found.get("error"), "devices": []})
    record["engines_error"] = found.get("error")
    for device in record["gpus"]["devices"]:
        device["mxnet"] = doctor_parts.stock_mxnet_on(device["compute_capability"], record["mxnet"])
    folder = str(Path(mxnet_trt_property.__file__).parent)
    record["package"] = {"version": mxnet_trt_property.__version__, "path": folder}
    record["python"] = {
        "version": platform.python_version(), "executable": sys.executable, "system": platform.platform()
    }  # fmt: skip
    record["variables"] = doctor_parts.variables(os.environ)
    record["backend_is_on"] = settings.backend_is_on()
    record["usable"] = [row["name"] for row in record["engines"] if row["reason"] is None]
    record["advice"] = list(_advice(record))
    return record


def _advice(record: dict[str, Any]) -> Iterator[str]:
    """Yields what to do, the most urgent first."""
    for name, package in record["packages"].items() if "error" not in record["packages"] else ():
        if "error" in package:
            yield f"pip install --force-reinstall {name}"
    if "error" in record["mxnet"]:
        yield f"MXNet cannot be imported: {_install_of_mxnet(record['mxnet'], sys.version_info[:2])}"
    if "error" in record["native_library"]:
        yield "reinstall mxnet-trt-property: its native library cannot be used"
    if not record["usable"]:
        yield "no engine can run: pip install onnxruntime serves every machine"
    devices = record["gpus"]["devices"]
    if devices and not any(reason is None for device in devices for reason in device["engines"].values()):
        yield f"no engine can use the GPU: {_install_for_gpus(record['engines'], devices)}"
    broken = {"error"} & {*record["mxnet"], *record["native_library"]}
    if record["usable"] and not record["activation"]["works"] and not broken:
        yield "programs do not get TensorRT here: see activation above"
    if record["cache"].get("problem"):
        yield f"the cache folder: {record['cache']['problem'].rpartition('next step: ')[2]}"


def _install_of_mxnet(found: dict[str, Any], python: tuple[int, ...]) -> str:
    """Returns the command that mends an MXNet that cannot be imported.

    Args:
        found: The record of MXNet, with its error.
        python: The version of Python.
    """
    missing = re.search(r"No module named '(\w+)'", found["error"])
    if missing and missing.group(1) in _OF_MXNET:
        return f'pip install "{_OF_MXNET[missing.group(1)]}"'
    there = [name.replace(" ", "==") for name in found.get("packages", [])]
    if there:
        # Its own requirements ask for a NumPy that newer Pythons cannot have.
        return f"pip install --force-reinstall --no-deps {there[0]}"
    if python < _NEEDS_NUMPY_2:
        return "pip install mxnet==1.9.1"
    rest = " ".join(f'"{name}"' for name in ("numpy>=2.1", *_OF_MXNET.values()))
    return f"pip install --no-deps mxnet==1.9.1 && pip install {rest}"


def _install_for_gpus(rows: Sequence[dict[str, Any]], devices: Sequence[dict[str, Any]]) -> str:
    """Returns what to install, or to do, so that TensorRT can use the GPUs, none of which it can use now.

    Args:
        rows: The engines.
        devices: The GPUs, each with the command that installs a TensorRT for it.
    """
    ours = [row for row in rows if row["name"].startswith("tensorrt")]
    # One that is there and refuses the GPUs knows best, such as the version that an older GPU needs.
    for row in sorted(ours, key=lambda row: not row["version"]):
        if row["version"] and row["reason"]:
            step = row["reason"].rpartition("next step: ")[2]
            return str(row["install"] or step)
    return str(devices[0]["install"])


def text(record: dict[str, Any]) -> str:
    """Returns the record as the text that the command prints, in lines of at most 100 columns but for long words."""
    lines: list[str] = []
    package, python, mxnet = record["package"], record["python"], record["mxnet"]
    lines += _row("this package", f"{package['version']}, {package['path']}")
    lines += _row("Python", f"{python['version']}, {python['executable']}, {python['system']}")
    for name, title in (("numpy", "NumPy"), ("onnx", "ONNX")):
        found = record["packages"].get(name, record["packages"])
        lines += _row(title, found.get("version"), found.get("error"))
    variant = ", ".join(mxnet.get("packages", [])) or "not installed by pip"
    kind = "CUDA" if mxnet.get("cuda") else "CPU only"
    lines += _row("MXNet", f"{mxnet.get('version')} ({kind}; {variant}), {mxnet.get('library')}", mxnet.get("error"))
    if "error" not in mxnet:
        lines += _row("  features", ", ".join(mxnet["features"]))
        lines += _row("  shims", _shims(mxnet["shims"]))
    native = record["native_library"]
    lines += _row("native library", f"ABI {native.get('abi')}, {native.get('path')}", native.get("error"))
    if "error" not in mxnet and "error" not in native:
        lines += _row("  inference", _inference(record["inference"]), record["inference"].get("error"))
    cache = record["cache"]
    lines += _row("cache", _cache(cache), cache.get("error"))
    lines += _message(cache["problem"], _LABEL) if cache.get("problem") else []
    lines += ["", "engines, in the order of preference:"]
    if record["engines_error"]:
        lines += _message(record["engines_error"], 2)
    for row in record["engines"]:
        lines += _engine(row)
    lines += ["", "GPUs:", *_gpus(record["gpus"])]
    lines += ["", f"variables ({settings.BACKEND} is {'on' if record['backend_is_on'] else 'off'} in this shell):"]
    for row in record["variables"]:
        lines += _wrapped(f"{row['name']}={row['value']}", 2)
        lines += _message(row["error"], 6) if row["error"] else []
    lines += [] if record["variables"] else ["  none is set"]
    activation = record["activation"]
    used = ", ".join(activation["engines"])
    lines += ["", f"activation (a program run with {settings.BACKEND_VARIABLE}={settings.BACKEND}):"]
    lines += [f"  works: {used} ran it"] if activation["works"] else _message(f"FAILS: {activation['error']}", 2)
    for warning in activation["warnings"]:
        lines += _message(warning, 4)
    lines += ["", f"engines that can run here: {', '.join(record['usable']) or 'NONE'}"]
    lines += [line for advice in record["advice"] for line in _wrapped(f"to do: {advice}", 0, 7)]
    return "\n".join(lines)


def _shims(names: Sequence[str]) -> str:
    """Returns the names that MXNet found because of this package; those of its import alone stand together."""
    there = [name for name in names if not name.endswith(_IN_IMPORT)]
    gone = [name[: -len(_IN_IMPORT)] for name in names if name.endswith(_IN_IMPORT)]
    parts = [", ".join(there)] if there else []
    parts += [f"while MXNet was imported: {', '.join(gone)}"] if gone else []
    return "; ".join(parts) or "none needed"


def _cache(found: dict[str, Any]) -> str:
    if not found.get("on"):
        return "off (MXNET_TENSORRT_CACHE=0)"
    held, limit = (f"{found[name] / 2**20:.0f}" for name in ("size_bytes", "limit_bytes"))
    count = f"{found['entries']} {'entry' if found['entries'] == 1 else 'entries'}"
    return f"{found['folder']}, {count}, {held} of {limit} MiB"


def _inference(found: dict[str, Any]) -> str:
    if found.get("replaced"):
        return "by this package: binds lose no memory"
    return f"by MXNet, which loses some memory at each bind: {found.get('problem')}"


def _row(label: str, value: Optional[str], error: Optional[str] = None) -> list[str]:
    if error:
        first, *others = _message(f"FAILS: {error}", _LABEL)
        return [f"{label:<{_LABEL}}{first.strip()}", *others]
    return _wrapped(f"{label:<{_LABEL}}{value}", 0, _LABEL)


def _engine(row: dict[str, Any]) -> list[str]:
    state = "can run" if row["reason"] is None else "cannot run"
    origin = f" (from {row['package']})" if row["package"] else ""
    lines = [f"  {row['name'] + origin:<24}{row['version'] or 'no version':<14}{state}"]
    if row["reason"] is not None:
        lines += _message(row["reason"], 6)
        # On a line of its own, to be copied.
        if row["install"] and not any(row["install"] in line for line in lines):
            lines.append(f"        {row['install']}")
    return lines


def _gpus(record: dict[str, Any]) -> Iterator[str]:
    if record["error"]:
        yield from _message(record["error"], 2)
        return
    yield f"  driver {record['driver'] or 'of unknown version'}, serves CUDA {record['cuda']}"
    for device in record["devices"]:
        words = f"compute capability {device['compute_capability']}, {device['memory_bytes'] / 2**30:.0f} GiB"
        yield f"  GPU {device['index']}: {device['name']}, {words}"
        yield from _wrapped(f"{'MXNet itself':<18}{device['mxnet']}", 6, 24)
        for name, reason in device["engines"].items():
            # The engines' own paragraphs have the reasons of those that are not installed.
            short = "can use it" if reason is None else reason.split(" | ")[0]
            yield from _wrapped(f"{name:<18}{short}", 6, 24)


def _message(words: str, indent: int) -> list[str]:
    """Returns an error's text (errors.message) with a line for each of its parts."""
    first, *others = words.split(" | ")
    lines = _wrapped(first, indent, indent + 2)
    for part in others:
        lines += _wrapped(part, indent + 2, indent + 4)
    return lines


def _wrapped(words: str, indent: int, later: Optional[int] = None) -> list[str]:
    """Returns words in lines of at most 100 columns; a longer word, such as a path, is left whole to be copied."""
    return textwrap.wrap(
        words,
        _WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2 if later is None else later),
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    ) or [""]
