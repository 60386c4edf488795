"""Does what a new user does with nothing but the README: installs the wheel and tries each command.

usage: python ci/new_user.py [--dist DIR] [PYTHON ...]

For each interpreter PYTHON (the one that runs this, by default) the lines that the README gives for its version are
run as they stand there, in a new virtual environment, with the wheel of DIR (dist/) found by --find-links. Then
doctor, the README's programs with and without the variable, demo, explain, plot, bench and profile, on ResNet-18. At
last the engine is uninstalled, and each command that needs one must say what to install. Prints a line for each step,
and its words where it went wrong. Exit status 1 if any step did.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NETWORK = "resnet18_v2"


class StepError(Exception):
    """A step did not do what it should; the text is what the step wrote."""


def main() -> int:
    """Tries every interpreter and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", default=[sys.executable])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="the folder of the wheel (dist)")
    arguments = parser.parse_args()
    wheels = sorted(arguments.dist.glob("mxnet_trt_property-*.whl"))
    if len(wheels) != 1:
        print(f"error: {arguments.dist} has {len(wheels)} wheels of this package; one is wanted: make wheel")
        return 1
    return max(attempt(python, arguments.dist.resolve()) for python in arguments.pythons)


def attempt(python: str, dist: Path) -> int:
    """Tries one interpreter in a folder of its own, and returns 0 where everything worked."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="new-user-") as name:
        folder = Path(name)
        (folder / "dist").symlink_to(dist)
        try:
            subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{python}: not tried, it makes no virtual environment: {error}\n", flush=True)
            return 1
        user = User(folder)
        version = user.run("python -c 'import sys; print(*sys.version_info[:2], sep=\".\")'").strip()
        print(f"Python {version}")
        try:
            user.everything(version)
        except StepError as error:
            print(error)
            return 1
    print(f"Python {version}: all right, {time.perf_counter() - began:.0f} s\n", flush=True)
    return 0


class User:
    """Someone at a shell in an empty folder, with a fresh environment switched on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MXNET_", "PYTHON", "VIRTUAL_ENV"))}
        self.environ = {**kept, "PATH": f"{folder}/venv/bin{os.pathsep}{os.environ['PATH']}"}

    def run(self, command: str, status: int = 0, **variables: str) -> str:
        """Runs a line of shell and returns what it wrote."""
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env={**self.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != status:
            raise StepError(f"$ {command}\n{done.stdout}\nended with status {done.returncode}, and {status} was wanted")
        return done.stdout

    def step(self, command: str, *words: str, status: int = 0, **variables: str) -> str:
        """Runs a line, looks for `words` (regular expressions) in what it wrote, and prints how long it took."""
        began = time.perf_counter()
        text = self.run(command, status, **variables)
        for word in words:
            if not re.search(word, text):
                raise StepError(f"$ {command}\n{text}\ndoes not say {word!r}")
        print(f"  {time.perf_counter() - began:6.1f} s  {command}", flush=True)
        return text

    def everything(self, version: str) -> None:
        """Takes all the steps."""
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        for line in install_lines(readme, version):
            self.step(line)
        if version != "3.13":  # there MXNet's wish for an older NumPy cannot be met, as the README says
            self.step("pip check")
        self.step("mxnet-trt doctor", "works: onnxruntime ran it", "engines that can run here: .*onnxruntime")
        for name in ("export.py", "program.py"):
            (self.folder / name).write_text(program(readme, name), encoding="utf-8")
        self.step("python export.py")
        plain = self.step("python program.py", "class ")
        ours = self.step(
            "python program.py",
            MXNET_SUBGRAPH_BACKEND="TensorRT", MXNET_TENSORRT_ON_ERROR="raise", MXNET_TENSORRT_REPORT="report.json",
        )  # fmt: skip
        if '"engine": "onnxruntime"' not in (self.folder / "report.json").read_text():
            raise StepError(f"the program ran without any engine:\n{ours}\n{plain}")
        shape = "--shape data=1,3,224,224"
        self.step("mxnet-trt demo --seconds 0.3", "result +passed")
        self.step(f"mxnet-trt explain {NETWORK} {shape}", "69 of 69")
        if shutil.which("dot"):
            self.step(f"mxnet-trt plot {NETWORK} {shape} -o net.svg", "69 of 69 nodes")
        else:
            self.step(f"mxnet-trt plot {NETWORK} {shape} -o net.svg", "apt-get install graphviz", status=1)
        self.step(
            f"mxnet-trt bench {NETWORK} --batch 1 --seconds 0.05 --json bench.json --plot bench.svg", "onnxruntime"
        )
        self.step(f"mxnet-trt profile {NETWORK} {shape} --runs 3 --trace trace.json", r"_stage\d_conv\d_fwd +\d")
        self.without_engines(shape)
        self.step("pip uninstall --yes mxnet-trt-property")

    def without_engines(self, shape: str) -> None:
        """Takes away what the extras brought: each command that needs it says what to install."""
        self.run("pip uninstall --yes onnxruntime matplotlib")
        install = "pip install onnxruntime"
        self.step("mxnet-trt doctor", f"to do: no engine can run: {install}", status=1)
        self.step("python program.py", f"No engine can run.*{install}", MXNET_SUBGRAPH_BACKEND="TensorRT")
        self.step("mxnet-trt demo --seconds 0.1", f"No engine can run.*{install}", "result +FAILED", status=1)
        self.step(f"mxnet-trt explain {NETWORK} {shape}", "69 of 69")
        self.step(f"mxnet-trt bench {NETWORK} --batch 1 --seconds 0.05", f"No engine can run.*{install}", status=1)
        self.step(f"mxnet-trt bench {NETWORK} --plot bench.svg", r"pip install '.*\[plot\]'", status=1)
        self.step(f"mxnet-trt profile {NETWORK} {shape}", f"No engine can run.*{install}", status=1)


def install_lines(readme: str, version: str) -> list[str]:
    """Returns the README's lines for installing on one version of Python."""
    found = re.findall(r"^Python (3\.\d+)(?: to (3\.\d+))?:\n\n```console\n(.*?)```", readme, re.M | re.S)
    for first, last, block in found:
        numbers = [int(v.partition(".")[2]) for v in (first, version, last or first)]
        if numbers[0] <= numbers[1] <= numbers[2]:
            return [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    raise StepError(f"the README does not say how to install on Python {version}")


def program(readme: str, name: str) -> str:
    """Returns the README's program of a name."""
    found = re.search(rf"```python\n(# {re.escape(name)}\n.*?)```", readme, re.S)
    if not found:
        raise StepError(f"the README has no {name}")
    return found[1]


if __name__ == "__main__":
    sys.exit(main())
