"""What is in the wheel and in the sdist, installing and removing them, and links in the documents."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PTH = "mxnet_trt_property.pth"
LIBRARY = "mxnet_trt_property/libmxnet_trt.so"
# `activation` imports the first ones when mxnet is there to be patched; the last two are programs as users have them.
FOR_MXNET_ONLY = (
    "mxnet_trt_property.bind_partition",
    "mxnet_trt_property.bind_requests",
    "mxnet_trt_property.binding",
    "mxnet_trt_property.blocks",
    "mxnet_trt_property.early_start",
    "mxnet_trt_property.spinning",
    "mxnet_trt_property.stock",
    "mxnet_trt_property.executor",
    "mxnet_trt_property.packing",
    "mxnet_trt_property.cli.doctor_script",
    "mxnet_trt_property.cli.plain_script",
)
OPTIONAL = ("mxnet", "onnxruntime", "tensorrt", "tensorrt_rtx", "graphviz", "tqdm", "cuda")


def call(*command: object, cwd: Path = ROOT, **env: str) -> str:
    settings = {key: value for key, value in os.environ.items() if not key.startswith(("MXNET_", "PYTHONPATH"))}
    settings.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INDEX="1", **env)
    texts = [str(part) for part in command]
    result = subprocess.run(texts, cwd=cwd, env=settings, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, f"{' '.join(texts)}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree without anything built in it."""
    copy = tmp_path_factory.mktemp("source") / "tree"
    names = ("mxnet_trt_property", "cpp", "tests", "ci", "docs", "benchmarks", "examples")
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*.partial")
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, copy)
    return copy


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, made from the sdist, and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, tree)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


class Environment:
    """A fresh virtual environment that sees the packages of this one, but none of their .pth files."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"
        self.packages = Path(
            call(self.python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
        )
        paths = sysconfig.get_paths()
        (self.packages / "a_shared.pth").write_text("\n".join(sorted({paths["purelib"], paths["platlib"]})) + "\n")

    def pip(self, *arguments: object) -> None:
        call(sys.executable, "-m", "pip", "--python", self.python, *arguments)

    def run(self, program: str, **env: str) -> str:
        return call(self.python, "-c", program, cwd=self.packages, **env).strip()

    def contents(self) -> set[str]:
        files = (str(path.relative_to(self.packages)) for path in self.packages.rglob("*"))
        return {name for name in files if "__pycache__" not in name}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "venv")


HOOKED = "import sys; print(sum(type(f).__module__ == 'mxnet_trt_property._autoload' for f in sys.meta_path))"
WHERE = "import mxnet_trt_property; print(mxnet_trt_property.__file__)"


def check_install_and_removal(environment: Environment, *arguments: object, place: Path) -> None:
    before = environment.contents()
    environment.pip("install", "--no-deps", "--no-build-isolation", *arguments)
    assert (environment.packages / PTH).is_file()
    assert environment.run(HOOKED) == "1"
    assert environment.run(HOOKED, MXNET_TENSORRT_AUTOLOAD="0") == "0"
    assert Path(environment.run(WHERE)).is_relative_to(place)
    assert Path(environment.run(WHERE)).with_name("libmxnet_trt.so").is_file()
    environment.pip("uninstall", "--yes", "mxnet-trt-property")
    assert environment.contents() == before
    assert environment.run(HOOKED) == "0"


@pytest.mark.slow
def test_contents_of_the_wheel(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    assert re.fullmatch(r"mxnet_trt_property-[\d.]+-py3-none-(many)?linux\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(archive.read(name).decode() for name in names if name.endswith("dist-info/METADATA"))
        entry_points = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert {PTH, LIBRARY, "mxnet_trt_property/py.typed"} <= names
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "mxnet_trt_property").rglob("*.py")}
    assert sources <= names
    # Nothing else, and with that nothing of MXNet's or NVIDIA's.
    rest = {name for name in names - sources if ".dist-info/" not in name}
    assert rest == {PTH, LIBRARY, "mxnet_trt_property/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "mxnet-trt = mxnet_trt_property.cli.main:main" in entry_points
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(line.split()[1].split(">")[0] for line in required) == [
        "blake3",
        "numpy",
        "onnx",
        "platformdirs",
        "tqdm",
    ]


@pytest.mark.slow
def test_contents_of_the_sdist(built: tuple[Path, Path]) -> None:
    _, sdist = built
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "cpp").glob("*") if path.suffix in (".cc", ".h")}
    wanted |= {"setup.py", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", PTH}
    # What the documents name, so that make, the tests and CI's own scripts work from the sdist alone.
    wanted |= {"Makefile", "CONTRIBUTING.md", "ci/build_wheel.sh", "ci/new_user.py", "ci/docker/Dockerfile"}
    wanted |= {"ci/docker/requirements.txt", "examples/mxnet_1_3.py", "docs/images/wavenet.svg"}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")}
    assert wanted <= names, wanted - names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".o"))]
    assert not [name for name in names if name.endswith(("lib_api.h", "lib_api.cc", "NvInfer.h", "cuda.h"))]


def test_the_readme_says_how_to_install_on_each_python() -> None:
    found = runpy.run_path(str(ROOT / "ci" / "new_user.py"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for version in ("3.9", "3.10", "3.11", "3.12"):
        assert found["install_lines"](readme, version)[0] == "pip install mxnet==1.9.1"
    assert found["install_lines"](readme, "3.13")[0] == "pip install --no-deps mxnet==1.9.1"
    assert "simple_bind" in found["program"](readme, "program.py")
    assert ".export(" in found["program"](readme, "export.py")
    with pytest.raises(found["StepError"], match="does not say how to install on Python 3.8"):
        found["install_lines"](readme, "3.8")


def test_the_image_is_pinned_and_without_rights() -> None:
    """What a linter does not ask for: versions of everything that pip installs, and a user that is not root."""
    lines = (ROOT / "ci/docker/Dockerfile").read_text(encoding="utf-8").splitlines()
    (base,) = (line for line in lines if line.startswith("FROM "))
    assert re.fullmatch(r"FROM nvidia/cuda:\d+\.\d+\.\d+-runtime-ubuntu\d\d\.\d\d(@sha256:[0-9a-f]{64})?", base)
    assert next(line for line in reversed(lines) if line.startswith("USER ")) == "USER 1000:1000"
    required = (ROOT / "ci/docker/requirements.txt").read_text(encoding="utf-8").splitlines()
    packages = [line for line in required if not line.startswith("#")]
    assert "mxnet==1.9.1" in packages
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in packages)


@pytest.mark.slow
def test_the_library_exports_its_entry_points_only(built: tuple[Path, Path], tmp_path: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm of binutils is not installed")
    with zipfile.ZipFile(built[0]) as archive:
        library = archive.extract(LIBRARY, tmp_path)
    symbols = [line.split()[-1] for line in call("nm", "-D", "--defined-only", library).splitlines()]
    assert "initialize" in symbols
    assert not [name for name in symbols if not re.match(r"initialize$|mxtrt_|_(op|part|pass|msg)[A-Z]", name)]


@pytest.mark.slow
def test_install_of_the_wheel(built: tuple[Path, Path], environment: Environment) -> None:
    check_install_and_removal(environment, built[0], place=environment.packages)


@pytest.mark.slow
def test_install_of_the_sdist(built: tuple[Path, Path], environment: Environment) -> None:
    check_install_and_removal(environment, built[1], place=environment.packages)


@pytest.mark.slow
def test_install_of_the_tree(tree: Path, environment: Environment) -> None:
    check_install_and_removal(environment, tree, place=environment.packages)


@pytest.mark.slow
def test_editable_install(tree: Path, environment: Environment) -> None:
    check_install_and_removal(environment, "--editable", tree, place=tree)


@pytest.mark.slow
def test_a_missing_header_says_what_to_do(tree: Path, tmp_path: Path) -> None:
    program = (
        "import runpy, sys, sysconfig, site, setuptools\n"
        "setuptools.setup = lambda **kwargs: None\n"
        f"find_include = runpy.run_path({str(tree / 'setup.py')!r})['find_include']\n"
        f"sysconfig.get_paths = lambda: dict(platlib={str(tmp_path)!r}, purelib={str(tmp_path)!r})\n"
        f"site.getsitepackages, site.getusersitepackages = list, lambda: {str(tmp_path)!r}\n"
        "sys.path[:] = []\n"
        "try:\n    print(find_include())\nexcept SystemExit as error:\n    print(error)\n"
    )
    text = call(sys.executable, "-c", program, VIRTUAL_ENV="", CONDA_PREFIX="")
    assert str(tmp_path / "mxnet/include/mxnet/lib_api.h") in text
    assert "mxnet==1.9.1" in text and "MXNET_INCLUDE_DIR" in text

    header = tmp_path / "given" / "mxnet" / "lib_api.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define MX_LIBRARY_VERSION 11\n")
    for given in (header.parents[1], header.parent):
        assert call(sys.executable, "-c", program, MXNET_INCLUDE_DIR=str(given)).strip() == str(header.parents[1])
    header.write_text("#define MX_LIBRARY_VERSION 7\n")
    assert "another MXNet" in call(sys.executable, "-c", program, MXNET_INCLUDE_DIR=str(header.parents[1]))


def test_every_module_imports_with_nothing_optional_installed() -> None:
    program = f"""
import importlib, pkgutil, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import mxnet_trt_property
def walk(package):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.name.endswith(("__main__", "libmxnet_trt")) or module.name in {FOR_MXNET_ONLY!r}:
            continue
        loaded = importlib.import_module(module.name)
        print(module.name)
        if module.ispkg:
            walk(loaded)
walk(mxnet_trt_property)
"""
    names = call(sys.executable, "-W", "error", "-c", program, cwd=ROOT).split()
    assert len(names) == len(set(names)) > 10


DOCUMENTS = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *sorted(str(p.relative_to(ROOT)) for p in (*ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md"))),
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_resolve(name: str) -> None:
    document = ROOT / name
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path) if path else document
        assert file.exists(), f"{name} links to {target}"
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{name} links to {target}"
