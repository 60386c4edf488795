"""What `mxnet-trt doctor` looks at, each part in a process of its own: a library that crashes must not end the command.

A part is a function that returns a record for JSON; what cannot be had is there as `error`, in words.
`python -m mxnet_trt_property.cli.doctor_parts PART FILE` writes one to a file. Nothing but the standard library is
imported before a part runs, since any package may be what is broken.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Optional

from mxnet_trt_property import settings
from mxnet_trt_property.errors import SettingError, TensorRTPropertyError, message

Record = dict[str, Any]

# The first import of MXNet on a slow disk, or the first load of a TensorRT library, takes tens of seconds.
_SECONDS = 300
_SCRIPT = Path(__file__).with_name("doctor_script.py")
_PTH = "mxnet_trt_property.pth"

# Variables of others that decide whether and how subgraphs run here.
_OTHERS = (settings.BACKEND_VARIABLE, settings.OLD_SWITCH, "MXNET_ENGINE_TYPE", "CUDA_VISIBLE_DEVICES")
# What a network needs left out, not a machine.
_OF_NETWORKS = ("EXCLUDE_OPS", "EXCLUDE_NODES", "MIN_SUBGRAPH_SIZE", "REPORT")

# MXNet's wheels hold code for whole GPU generations and no PTX. By the version of CUDA: the newest generation and the
# newest of its members that code was made for, as in config/distribution/ of MXNet 1.9.1.
_NEWEST_GENERATION = {"10": (7, "7.5"), "11": (8, "8.6")}


def python_packages() -> Record:
    """Returns the versions of the packages that everything else needs, by import name."""
    return {name: attempt(lambda name=name: {"version": str(import_module(name).__version__)})  # type: ignore[misc]
            for name in ("numpy", "onnx")}  # fmt: skip


def mxnet() -> Record:
    """Returns version, file, variant and features of MXNet, and the shims that its import needed."""
    found: Record = {"packages": _mxnet_packages()}
    found.update(attempt(_imported_mxnet))
    return found


def _mxnet_packages() -> list[str]:
    """Returns the installed distributions that hold MXNet, such as "mxnet-cu112 1.9.1"; there should be one."""
    names = {(d.metadata["Name"] or "", d.version) for d in metadata.distributions()}
    return sorted(f"{name} {version}" for name, version in names if re.fullmatch(r"mxnet([-_]cu\d+)?", name.lower()))


def _imported_mxnet() -> Record:
    import_module("mxnet_trt_property")  # also where the import hook is turned off, which another part tells
    mx = import_module("mxnet")
    shims = import_module("mxnet_trt_property.shims")
    features = sorted(name for name, feature in mx.runtime.Features().items() if feature.enabled)
    return {
        "version": mx.__version__,
        "library": str(mx.libinfo.find_lib_path()[0]),
        "cuda": "CUDA" in features,
        "features": features,
        "shims": list(shims.applied()),
    }


def native_library() -> Record:
    """Returns the path and the ABI version of the native library."""
    native = import_module("mxnet_trt_property.native")

    def opened() -> Record:
        return {"abi": native.library().mxtrt_abi_version()}

    return {"path": str(native.LIBRARY), "required_abi": native.ABI_VERSION, **attempt(opened)}


def inference() -> Record:
    """Returns whether TensorRT nodes lose no memory at each bind, or why they do as MXNet itself would."""
    import_module("mxnet_trt_property.backend").load_native()
    problem = import_module("mxnet_trt_property.subgraph_inference").problem()
    return {"replaced": problem is None, "problem": problem}


def engines() -> Record:
    """Returns every engine in the order of preference, and the GPUs with what each engine says of them."""
    registry = import_module("mxnet_trt_property.engines.registry")
    driver = import_module("mxnet_trt_property.cuda_driver").default()
    try:
        wanted = settings.value("DEVICE")
    except SettingError:
        wanted = 0  # the part about variables tells it
    names, packages = registry.names(), _engine_packages()
    reasons = registry.choose("auto", registry.Device("cpu", 0, wanted)).reasons
    rows = []
    for name in names:
        row = {"name": name, "version": "", "package": packages.get(name, ""), "reason": reasons.get(name)}
        # A failure of this is in the registry's reason too.
        row["version"] = attempt(lambda name=name: {"is": registry.get(name).version()}).get("is", "")  # type: ignore[misc]
        row["install"] = _install(row["reason"], row["package"])
        rows.append(row)
    gpus: Record = {"error": driver.unavailable(), "devices": []}
    if gpus["error"] is None:
        gpus["cuda"] = ".".join(str(n) for n in driver.version())
        gpus["driver"] = import_module("mxnet_trt_property.cli.bench_machine").kernel_driver()
        for index in range(driver.device_count()):
            info = driver.device_info(index)
            refused = registry.choose("auto", registry.Device("cpu", 0, index)).reasons
            device = {"index": index, "name": info.name, "memory_bytes": info.total_bytes}
            device["compute_capability"] = ".".join(str(n) for n in info.compute_capability)
            device["install"] = import_module("mxnet_trt_property.engines.trt").install_for(info.compute_capability)
            device["engines"] = {name: refused.get(name) for name in names if not registry.runs_on_cpu(name)}
            gpus["devices"].append(device)
    return {"engines": rows, "gpus": gpus}


def _engine_packages() -> dict[str, str]:
    """Returns the distribution of each third-party engine, by the engine's name."""
    group = "mxnet_trt_property.engines"
    return {
        point.name: str(distribution.metadata["Name"])
        for distribution in metadata.distributions()
        for point in distribution.entry_points
        if point.group == group
    }


def _install(reason: Optional[str], package: str) -> Optional[str]:
    """Returns the pip command that mends an engine, or None where none does."""
    if reason is None:
        return None
    command = re.search(r"pip install .*", reason)
    if command:
        return command.group()
    return f"pip install --force-reinstall {package}" if package and "cannot be asked" in reason else None


def stock_mxnet_on(capability: str, found: Mapping[str, Any]) -> str:
    """Returns in words what MXNet itself can do on a GPU.

    Args:
        capability: The GPU's compute capability, such as "9.0".
        found: The record of `mxnet`.
    """
    if "version" not in found:
        return "unknown: it cannot be imported"
    if not found["cuda"]:
        return "nothing: it was built without CUDA; TensorRT serves arrays of mx.cpu() on this GPU"
    cuda = re.search(r"cu(\d\d)", " ".join(found["packages"]))
    generation, newest = _NEWEST_GENERATION.get(cuda.group(1) if cuda else "", (8, "8.6"))
    if int(capability.split(".", maxsplit=1)[0]) > generation:
        return f"nothing: its wheels hold code up to compute capability {newest}; use mx.cpu() with TensorRT"
    return f"can use it: its wheels hold code up to compute capability {newest}, which serves all of {generation}.x"


def variables(environ: Mapping[str, str]) -> list[Record]:
    """Returns the variables that are set, each with what is wrong with it, if anything."""
    known = {settings.PREFIX + v.name: v for v in settings.VARIABLES}
    rows = []
    for name in sorted(environ):
        row: Record = {"name": name, "value": environ[name], "known": name in known or name in _OTHERS, "error": None}
        if name in known:
            try:
                known[name].parse(environ[name], name)
            except SettingError as error:
                row["error"] = str(error)
        elif name.startswith(settings.PREFIX):
            near = difflib.get_close_matches(name, known, 1)
            meant = f" (is {near[0]} meant?)" if near else ""
            row["error"] = "not a variable of this version; it has no effect" + meant
        elif name == settings.BACKEND_VARIABLE and environ[name] not in ("", settings.BACKEND):
            row["error"] = f"TensorRT is off: {settings.BACKEND} turns it on"
        if name in _OTHERS or name.startswith(settings.PREFIX):
            rows.append(row)
    return rows


def activation(environ: Mapping[str, str]) -> Record:
    """Runs a plain MXNet program with TensorRT on, and returns which engines ran it, or why none did."""
    with tempfile.TemporaryDirectory(prefix="mxnet-trt-doctor-") as folder:
        report = Path(folder) / "report.json"
        kept = {settings.PREFIX + v.name for v in settings.VARIABLES if v.name not in _OF_NETWORKS}
        environment = {k: v for k, v in environ.items() if k in kept or not k.startswith(settings.PREFIX)}
        environment[settings.BACKEND_VARIABLE] = settings.BACKEND
        environment[settings.PREFIX + "REPORT"] = str(report)
        failure, printed, words = _call([sys.executable, str(_SCRIPT)], environment)
        rows = json.loads(report.read_text(encoding="utf-8")) if report.exists() else []
    used = sorted({row["engine"] for row in rows if row["engine"]})
    if "mxnet_trt_property" not in printed:
        # Without the shims of the hook MXNet may fail, too; then both are told.
        failure = (
            " | ".join(filter(None, (_hook_problem(environ), failure))) or "importing mxnet does not load this package"
        )
    elif failure is None and not used:
        failure = "the program ran on MXNet alone: no engine took its nodes"
    return {
        "works": failure is None,
        "engines": used,
        "error": failure,
        # The messages of this package; MXNet and others have their own.
        "warnings": [line for line in words.splitlines() if " | " in line and line not in (failure or "")],
    }


def _hook_problem(environ: Mapping[str, str]) -> Optional[str]:
    """Returns why the import hook is not there when a program starts, or None."""
    name = settings.PREFIX + "AUTOLOAD"
    if environ.get(name, "").strip().lower() in ("0", "false", "no", "off"):
        step = "unset it, or import mxnet_trt_property in the program"
        return message("the import hook is turned off", found=f"{name}={environ[name]}", next_step=step)
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    if any((Path(folder) / _PTH).exists() for folder in folders):
        return None
    return message(
        "importing mxnet does not load this package",
        found=f"no {_PTH} in {', '.join(folders)}",
        next_step="pip install --force-reinstall --no-deps mxnet-trt-property (in a clone: pip install .), or "
        "import mxnet_trt_property in the program",
    )


def isolated(part: str) -> Record:
    """Returns what a part of `PARTS` finds, in a process of its own; its end is the part's `error`."""
    with tempfile.TemporaryDirectory(prefix="mxnet-trt-doctor-") as folder:
        file = Path(folder) / "part.json"
        failure, _, _ = _call([sys.executable, "-m", __name__, part, str(file)], os.environ)
        try:
            found: Record = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return {"error": failure or str(error)}
    return found


def _call(command: Sequence[str], environ: Mapping[str, str]) -> tuple[Optional[str], str, str]:
    """Runs a program; returns why it failed, or None, and what it wrote to stdout and to stderr."""
    try:
        done = subprocess.run(
            command, env=dict(environ), capture_output=True, text=True, errors="replace", check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {_SECONDS} seconds", "", ""
    except OSError as error:
        return f"it cannot be started: {error}", "", ""
    if done.returncode == 0:
        return None, done.stdout, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no words"]
    # The line with the exception's name is not the last one where its text has several.
    last = next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)), lines[-1])
    if done.returncode < 0:
        last = f"it was ended by {signal.strsignal(-done.returncode) or -done.returncode}: {last}"
    return last, done.stdout, done.stderr


def attempt(work: Callable[[], Record]) -> Record:
    """Returns what `work` finds, or its failure as `error`."""
    try:
        return work()
    except TensorRTPropertyError as error:
        return {"error": str(error)}
    except Exception as error:  # whatever is broken here is what was asked for
        return {"error": f"{type(error).__name__}: {error}"}


PARTS: Mapping[str, Callable[[], Record]] = {
    "packages": python_packages,
    "mxnet": mxnet,
    "native_library": native_library,
    "inference": inference,
    "engines": engines,
    "cache": lambda: dict(import_module("mxnet_trt_property.cli.doctor_cache").cache()),
}

if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(attempt(PARTS[sys.argv[1]])), encoding="utf-8")
