"""Every sample of the documents is run, in the order of its page and in a folder of its own.

    python   Run in this process; the samples of a page share their names. One whose first line is a comment with the
             name of a file, such as `# program.py`, is written to that file instead, for a command to run.
    console  Lines that begin with `$ ` are run by bash. What is shown below one has to be in its output, line by line
             and in this order, but for numbers and the width of gaps; `...` stands for any lines.
    text     Anything else, such as a log; not run.

The folder holds the checkpoints `resnet18_v2` and `wavenet`, with random weights.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

import mxnet_trt_property
from mxnet_trt_property.operators import registry
from tests.models import zoo

# After the package, whose import hook gives MXNet the names that NumPy took away.
import mxnet as mx  # isort: skip
from mxnet.gluon.model_zoo import vision  # isort: skip

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
    *sorted(f"examples/{page.name}" for page in (ROOT / "examples").glob("*.md")),
]
# Pages whose samples are parts of one package, which another test puts together.
RUN_BY_OTHERS = {"docs/engines.md": "tests/engines/test_documented.py"}
LANGUAGES = ("python", "console", "text", "json", "c", "dockerfile", "toml", "yaml", "{eval-rst}")
# They install, need a clone or the network, or never end; tests/test_package.py and ci/ run what they do.
SHOWN_ONLY = re.compile(r"(sudo |cd |git |pip |make |tox|docker |apt-get |ci/|\.venv/|python -m venv|source )")
INSTEAD = {"make demo": "mxnet-trt demo --seconds 0.1"}
NUMBER = re.compile(r"[-+]?\b\d+(\.\d+)*(e[-+]?\d+)?\b")
PACKAGE = Path(mxnet_trt_property.__file__).parents[1]


def console(example: Example) -> None:
    """Runs the commands of a sample and compares what they print."""
    for part in re.split(r"^\$ ", str(example.parsed), flags=re.MULTILINE)[1:]:
        command, shown = re.match(r"((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", part, flags=re.DOTALL).groups()
        if SHOWN_ONLY.match(command) and not (shown.strip() and command in INSTEAD):
            continue
        done = subprocess.run(
            ["bash", "-c", INSTEAD.get(command, command)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=240,
        )
        # A command that fails on purpose is shown with what it says.
        assert done.returncode == 0 or shown, f"{command}\n{done.stdout}"
        missing = not_in(shown, done.stdout)
        assert not missing, f"{example.path}:{example.line}: {command}\nmissing: {missing}\nprinted:\n{done.stdout}"


def environment() -> dict[str, str]:
    """Returns the environment of a command: this Python's programs, this source tree, and no GPU."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    imports = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PATH": path, "PYTHONPATH": imports, "CUDA_VISIBLE_DEVICES": ""}


def not_in(shown: str, printed: str) -> str:
    """Returns the first line of `shown` that is not in `printed` behind those before it, or nothing."""
    lines = iter([_loose(line) for line in printed.splitlines()])
    for line in shown.splitlines():
        if line.strip() not in ("", "...") and not any(found == _loose(line) for found in lines):
            return line
    return ""


def _loose(line: str) -> str:
    return " ".join(NUMBER.sub("0", line).split())


def python(example: Example) -> None:
    """Runs a sample, or writes it to the file that its first line names."""
    source = str(example.parsed)
    named = re.match(r"# (\w+\.py)\n", source)
    if named:
        Path(named[1]).write_text(source, encoding="utf-8")
    else:
        code = compile("\n" * (example.line + example.parsed.line_offset) + source, example.path, "exec")
        exec(code, example.namespace)


SYBIL = Sybil(parsers=[CodeBlockParser("python", python), CodeBlockParser("console", console)])


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints that pages speak of."""
    folder = tmp_path_factory.mktemp("checkpoints")
    mx.random.seed(0)
    network = vision.resnet18_v2()
    network.initialize(mx.init.Xavier())
    network.hybridize()
    network(mx.nd.zeros((1, 3, 224, 224)))
    network.export(str(folder / "resnet18_v2"))
    zoo.wavenet().symbol.save(str(folder / "wavenet-symbol.json"))
    return folder


def has_commands(page: str) -> bool:
    """Whether a page has commands that are run, each of which starts a Python with MXNet."""
    return "```console" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if has_commands(page) else [])
        for page in PAGES
        if page not in RUN_BY_OTHERS
    ],
)
def test_samples(
    page: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_warnings: None
) -> None:
    for file in checkpoints.iterdir():
        os.link(file, tmp_path / file.name)
    monkeypatch.chdir(tmp_path)
    # Operators that a page registers are there for its own samples only.
    monkeypatch.setattr(registry, "_OPERATORS", dict(registry._OPERATORS))
    before = dict(os.environ)  # samples set variables with os.environ, as programs do
    try:
        for example in SYBIL.parse(ROOT / page).examples():
            example.evaluate()
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@pytest.mark.parametrize("page", PAGES)
def test_every_sample_says_what_it_is(page: str) -> None:
    fences = re.findall(r"^ *```(.*)$", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(fences) % 2 == 0
    assert set(fences[::2]) <= set(LANGUAGES) and set(fences[1::2]) <= {""}


def test_what_is_shown_is_looked_for() -> None:
    printed = "model  resnet\ntook 3.25 ms\nresult passed\n"
    assert not not_in("model resnet\n...\nresult passed", printed)
    assert not not_in("took 11 ms", printed)
    assert not_in("result passed\nmodel resnet", printed) == "model resnet"
    assert not_in("took 3.25 us", printed) == "took 3.25 us"
