"""`mxnet-trt doctor` as a program, in environments that lack or break one thing each, and its text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mxnet_trt_property.cli import doctor, doctor_parts
from mxnet_trt_property.engines import trt
from tests.engines.conftest import HERE as ENGINE_TESTS

ROOT = Path(__file__).resolve().parents[2]

# Makes packages look as if they were not installed, in every process of the command.
HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
"""

# A TensorRT over the fake driver, which is there under the name of the real one.
TENSORRT = """
import ctypes
from tests.engines.fake_tensorrt import *
from tests.engines.fake_tensorrt import State, __version__
State.record = ctypes.CDLL("libcuda.so.1").fake_record
State.refuses_gpu = {refuses}
"""


class Environment:
    """A folder that goes before all others on the path of the command, and its variables."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}

    def hide(self, *names: str) -> None:
        (self.folder / "sitecustomize.py").write_text(HIDE.format(names=set(names)))

    def add(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def fake_driver(self) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("g++")
        if compiler is None:
            pytest.skip("no C compiler to build the fake CUDA driver with")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", self.folder / "libcuda.so.1"]
        subprocess.run([*command, ENGINE_TESTS / "fake_cuda.c"], check=True)
        self.variables["LD_LIBRARY_PATH"] = str(self.folder)

    def call(self, *arguments: str, status: int, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "mxnet_trt_property", "doctor", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.variables, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def record(self, *, status: int, **variables: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("--json", status=status, **variables).stdout)
        for line in doctor.text(found).splitlines():
            assert len(line) <= 100 or " " not in line.strip(), "only a word that fills a line may be longer"
        return found


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def rows(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in record["engines"]}


def test_as_a_program(environment: Environment) -> None:
    environment.hide("tensorrt", "tensorrt_rtx", "tensorrt_bindings", "tensorrt_rtx_bindings")
    done = environment.call(status=0, MXNET_TENSORRT_ENGINE="onnxruntime")
    paragraphs = done.stdout.split("\n\n")
    starts = ("this package", "engines", "GPUs", "variables", "activation", "engines that can run here: onnxruntime")
    assert [p.startswith(start) for p, start in zip(paragraphs, starts)] == [True] * len(starts)
    assert 'next step: pip install "mxnet-trt-property[rtx-cu12]"' in paragraphs[1]
    assert "works: onnxruntime ran it" in paragraphs[4]
    assert "MXNET_TENSORRT_ENGINE=onnxruntime" in paragraphs[3]


def test_no_gpu(environment: Environment) -> None:
    environment.add("libcuda.so.1", "no library")
    environment.hide("tensorrt_rtx", "tensorrt_rtx_bindings")
    environment.add("tensorrt.py", "from tests.engines.fake_tensorrt import *\n__version__ = '10.13'\n")
    record = environment.record(status=0, LD_LIBRARY_PATH=str(environment.folder))
    assert record["python"]["version"] == ".".join(str(n) for n in sys.version_info[:3])
    assert set(record["packages"]) == {"numpy", "onnx"}
    assert record["mxnet"]["version"] == "1.9.1"
    assert record["mxnet"]["packages"] == ["mxnet 1.9.1"]
    assert Path(record["mxnet"]["library"]).name == "libmxnet.so"
    assert record["native_library"]["abi"] == record["native_library"]["required_abi"]
    assert record["inference"] == {"replaced": True, "problem": None}
    assert [row["name"] for row in record["engines"]][:3] == ["tensorrt", "tensorrt_rtx", "onnxruntime"]
    assert record["usable"] == ["onnxruntime"]
    assert rows(record)["tensorrt"]["version"] == "10.13"
    assert rows(record)["tensorrt"]["reason"] == record["gpus"]["error"]
    what, found, required, step = record["gpus"]["error"].split(" | ")
    assert what == "The CUDA driver library libcuda.so.1 cannot be loaded"
    assert "libcuda.so.1" in found
    assert required.startswith("required: an NVIDIA driver on this machine (in a container")
    assert step == "next step: install the driver, or set MXNET_TENSORRT_ENGINE=onnxruntime"
    assert step in [line.strip() for line in doctor.text(record).partition("GPUs:")[2].splitlines()]
    assert record["activation"] == {"works": True, "engines": ["onnxruntime"], "error": None, "warnings": []}
    assert (record["variables"], record["advice"]) == ([], [])


def test_mxnet_keeps_its_own_inference() -> None:
    record = doctor.examine()
    record["inference"] = {"replaced": False, "problem": "libmxnet was built by another compiler"}
    assert "by MXNet, which loses some memory at each bind: libmxnet was built" in " ".join(doctor.text(record).split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "words", "step"),
    [
        (
            "no_device",
            "CUDA_ERROR_NO_DEVICE",
            "check that nvidia-smi lists the GPU and that CUDA_VISIBLE_DEVICES does not hide it",
        ),
        ("init_fails", "CUDA_ERROR_UNKNOWN", "run nvidia-smi: if that fails too, restart the machine"),
    ],
)
def test_a_driver_without_a_gpu(environment: Environment, mode: str, words: str, step: str) -> None:
    environment.fake_driver()
    environment.hide("tensorrt_rtx", "tensorrt_rtx_bindings")
    environment.add("tensorrt.py", TENSORRT.format(refuses=False))
    record = environment.record(status=0, FAKE_CUDA_MODE=mode)
    assert words in record["gpus"]["error"]
    assert step in record["gpus"]["error"].partition("next step: ")[2]
    assert rows(record)["tensorrt"]["reason"] == record["gpus"]["error"]
    assert record["activation"]["engines"] == record["usable"] == ["onnxruntime"]


@pytest.mark.slow
def test_no_engine(environment: Environment) -> None:
    environment.hide("tensorrt", "tensorrt_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings", "onnxruntime")
    record = environment.record(status=1)
    assert {name: row["install"] for name, row in rows(record).items()} == {
        "tensorrt": 'pip install "mxnet-trt-property[tensorrt-cu12]"',
        "tensorrt_rtx": 'pip install "mxnet-trt-property[rtx-cu12]"',
        "onnxruntime": "pip install onnxruntime",
    }
    assert not record["activation"]["works"]
    assert record["advice"] == ["no engine can run: pip install onnxruntime serves every machine"]
    *_, last, advice = doctor.text(record).splitlines()
    assert (last, advice) == ("engines that can run here: NONE", f"to do: {record['advice'][0]}")
    (warning,) = record["activation"]["warnings"]
    assert "No engine can run tensorrt0 (tensorrt: TensorRT cannot be imported (ModuleNotFoundError" in warning
    assert "next step: pip install onnxruntime, or see mxnet-trt doctor" in warning


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden", "part", "status", "advice"),
    [
        ("mxnet", "mxnet", 1, "MXNet cannot be imported: pip install --force-reinstall --no-deps mxnet==1.9.1"),
        ("onnx", "packages", 0, "pip install --force-reinstall onnx"),
    ],
)
def test_a_package_is_missing(environment: Environment, hidden: str, part: str, status: int, advice: str) -> None:
    environment.hide(hidden)
    record = environment.record(status=status)
    found = record[part] if part == "mxnet" else record[part][hidden]
    assert found["error"] == f"ModuleNotFoundError: No module named '{hidden}'"
    assert not record["activation"]["works"]
    assert record["advice"][0] == advice


@pytest.mark.slow
def test_numpy_is_missing(environment: Environment) -> None:
    environment.hide("numpy")
    record = environment.record(status=1)
    assert "No module named 'numpy'" in record["packages"]["numpy"]["error"]
    assert "No module named 'numpy'" in record["engines_error"]
    assert (record["engines"], record["usable"]) == ([], [])
    assert "numpy" in record["advice"][0]
    # The commands that need it say so, too.
    command = [sys.executable, "-m", "mxnet_trt_property", "explain", "net", "--shape", "data=1"]
    done = subprocess.run(
        command, env={**os.environ, **environment.variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("mxnet-trt: explain cannot be used here | found: ModuleNotFoundError")


@pytest.mark.slow
def test_a_library_that_crashes(environment: Environment) -> None:
    environment.add("mxnet/__init__.py", "import os\nos.abort()\n")
    record = environment.record(status=1)
    assert "Abort" in record["mxnet"]["error"]
    assert "Abort" in record["activation"]["error"]
    assert record["usable"]


@pytest.mark.slow
def test_the_native_library_is_missing(environment: Environment) -> None:
    without = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "mxnet_trt_property", environment.folder / "mxnet_trt_property", ignore=without)
    record = environment.record(status=0, MXNET_TENSORRT_ENGINE="onnxruntime")
    assert "no file" in record["native_library"]["error"]
    assert "ran on MXNet alone" in record["activation"]["error"]
    assert any("is missing" in line for line in record["activation"]["warnings"])
    assert "native library" in record["advice"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("open", "look what is in it, then chmod 700 {path}, or set MXNET_TENSORRT_CACHE=0"),
        ("file", "remove it, or name another one with MXNET_TENSORRT_CACHE_DIR, or set MXNET_TENSORRT_CACHE=0"),
        ("file/inside", "name another one with MXNET_TENSORRT_CACHE_DIR, or set MXNET_TENSORRT_CACHE=0"),
    ],
)
def test_a_broken_cache_folder(environment: Environment, name: str, advice: str) -> None:
    (environment.folder / "open").mkdir()
    (environment.folder / "open").chmod(0o777)
    environment.add("file", "")
    path = environment.folder / name
    record = environment.record(status=0, MXNET_TENSORRT_CACHE_DIR=str(path), MXNET_TENSORRT_ENGINE="onnxruntime")
    assert name != "open" or "others may write" in record["cache"]["problem"]
    assert record["cache"]["problem"].startswith(f"The cache folder {path} cannot be used; engines are built without")
    assert record["advice"] == [f"the cache folder: {advice.format(path=path)}"]
    assert f"to do: {record['advice'][0]}" in " ".join(doctor.text(record).split())
    assert record["activation"]["works"], "programs run without the cache"
    assert any(f"The cache folder {path} cannot be used" in line for line in record["activation"]["warnings"])


@pytest.mark.slow
def test_a_gpu_that_an_engine_refuses(environment: Environment) -> None:
    environment.fake_driver()
    environment.hide("tensorrt_rtx", "tensorrt_rtx_bindings")
    environment.add("tensorrt.py", TENSORRT.format(refuses=True))
    record = environment.record(status=0)
    assert record["gpus"]["cuda"] == "12.8"
    first = record["gpus"]["devices"][0]
    assert (len(record["gpus"]["devices"]), first["name"], first["compute_capability"]) == (2, "Fake H100", "9.0")
    assert "TensorRT 99.0 refuses GPU 0 (Fake H100, compute capability 9.0)" in first["engines"]["tensorrt"]
    assert "this GPU architecture is not supported" in first["engines"]["tensorrt"]
    assert set(first["engines"]) == {"tensorrt", "tensorrt_rtx"}
    assert first["mxnet"].startswith("nothing: ")
    assert rows(record)["tensorrt"]["version"] == "99.0"
    assert record["activation"]["engines"] == record["usable"] == ["onnxruntime"]
    (advice,) = record["advice"]
    assert advice == (
        "no engine can use the GPU: install a version of TensorRT that supports this GPU, update the NVIDIA driver, or "
        "set MXNET_TENSORRT_ENGINE=onnxruntime"
    )
    assert f"to do: {advice}" in " ".join(doctor.text(record).split())
    assert "refuses GPU 1 (Fake H100" in " ".join(doctor.text(record).split())


@pytest.mark.slow
def test_a_gpu_that_an_engine_takes(environment: Environment) -> None:
    environment.fake_driver()
    environment.hide("tensorrt_rtx", "tensorrt_rtx_bindings")
    environment.add("tensorrt.py", TENSORRT.format(refuses=False))
    record = environment.record(status=0)
    assert record["gpus"]["devices"][1]["engines"]["tensorrt"] is None
    assert record["activation"]["engines"] == ["tensorrt"], record["activation"]
    assert record["advice"] == []
    assert "tensorrt          can use it" in doctor.text(record)


@pytest.mark.slow
def test_a_hopper_gpu_that_tensorrt_rtx_refuses(environment: Environment) -> None:
    environment.fake_driver()
    environment.hide("tensorrt", "tensorrt_bindings")
    environment.add("tensorrt_rtx.py", TENSORRT.format(refuses=True))
    record = environment.record(status=0)
    assert record["activation"]["engines"] == record["usable"] == ["onnxruntime"]
    assert record["advice"] == ["no engine can use the GPU: pip install tensorrt-rtx-cu12==1.5.0.114"]


@pytest.mark.slow
def test_a_gpu_and_no_tensorrt(environment: Environment) -> None:
    environment.fake_driver()
    environment.hide("tensorrt", "tensorrt_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings")
    record = environment.record(status=0)
    assert record["usable"] == ["onnxruntime"]
    assert record["advice"] == ["no engine can use the GPU: pip install tensorrt-rtx-cu12==1.5.0.114"], "for Hopper"


def test_tensorrt_for_a_gpu() -> None:
    assert trt.install_for((9, 0)) == "pip install tensorrt-rtx-cu12==1.5.0.114"
    assert trt.install_for((8, 6)) == 'pip install "mxnet-trt-property[rtx-cu12]"'


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        (
            [("tensorrt", "", "not there", "pip install a"), ("tensorrt_rtx", "1.7", "refuses | next step: newer "
             "versions dropped Hopper: pip install tensorrt-rtx-cu12==1.5.0.114",
             "pip install tensorrt-rtx-cu12==1.5.0.114")],
            "pip install tensorrt-rtx-cu12==1.5.0.114",
        ),
        (
            [("tensorrt", "10.1", "refuses | next step: update the driver", None)],
            "update the driver",
        ),
        (
            [("tensorrt", "", "not there", "pip install a"), ("tensorrt_rtx", "", "not there", "pip install b")],
            "pip install for the GPU",
        ),
    ],
)  # fmt: skip
def test_advice_for_a_gpu(rows: list[tuple[Any, ...]], advice: str) -> None:
    records = [dict(zip(("name", "version", "reason", "install"), row)) for row in rows]
    assert doctor._install_for_gpus(records, [{"install": "pip install for the GPU"}]) == advice


@pytest.mark.parametrize(
    ("error", "packages", "python", "command"),
    [
        ("ModuleNotFoundError: No module named 'mxnet'", [], (3, 9), "pip install mxnet==1.9.1"),
        (
            "ModuleNotFoundError: No module named 'mxnet'",
            [],
            (3, 13),
            'pip install --no-deps mxnet==1.9.1 && pip install "numpy>=2.1" "requests<3" "graphviz<0.9"',
        ),
        ("ModuleNotFoundError: No module named 'requests'", ["mxnet 1.9.1"], (3, 13), 'pip install "requests<3"'),
        (
            "OSError: libmxnet.so: file too short",
            ["mxnet-cu112 1.9.1"],
            (3, 11),
            "pip install --force-reinstall --no-deps mxnet-cu112==1.9.1",
        ),
    ],
)
def test_advice_for_an_mxnet_that_cannot_be_imported(
    error: str, packages: list[str], python: tuple[int, int], command: str
) -> None:
    assert doctor._install_of_mxnet({"error": error, "packages": packages}, python) == command


@pytest.mark.slow
def test_a_broken_third_party_engine(environment: Environment) -> None:
    environment.add("theirs-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    environment.add("theirs-1.0.dist-info/entry_points.txt", "[mxnet_trt_property.engines]\nfast = theirs:Engine\n")
    environment.add("theirs.py", "raise RuntimeError('broken on purpose')\n")
    record = environment.record(status=0)
    row = rows(record)["fast"]
    assert (row["package"], row["version"], row["install"]) == ("theirs", "", "pip install --force-reinstall theirs")
    assert "RuntimeError: broken on purpose" in row["reason"]
    assert "        pip install --force-reinstall theirs" in doctor.text(record).splitlines()


@pytest.mark.slow
def test_activation_that_is_turned_off(environment: Environment) -> None:
    record = environment.record(status=0, MXNET_TENSORRT_AUTOLOAD="0")
    assert "error" not in record["mxnet"], "what is asked there is whether MXNet itself is in order"
    assert "the import hook is turned off" in record["activation"]["error"]
    assert record["advice"] == ["programs do not get TensorRT here: see activation above"]


def test_variables() -> None:
    found = doctor_parts.variables(
        {
            "HOME": "/root",
            "MXNET_ENGINE_TYPE": "NaiveEngine",
            "MXNET_SUBGRAPH_BACKEND": "MKLDNN",
            "MXNET_TENSORRT_ENGINE": "cuda",
            "MXNET_TENSORRT_PRECISON": "fp16",
            "MXNET_TENSORRT_VERBOSE": "1",
        }
    )
    errors = {row["name"]: row["error"] for row in found}
    assert "HOME" not in errors
    assert errors["MXNET_ENGINE_TYPE"] is errors["MXNET_TENSORRT_VERBOSE"] is None
    assert "TensorRT is off" in errors["MXNET_SUBGRAPH_BACKEND"]
    assert "required: one of auto, tensorrt" in errors["MXNET_TENSORRT_ENGINE"]
    assert "is MXNET_TENSORRT_PRECISION meant?" in errors["MXNET_TENSORRT_PRECISON"]
    assert [row["name"] for row in found if not row["known"]] == ["MXNET_TENSORRT_PRECISON"]


@pytest.mark.parametrize(
    ("package", "cuda", "capability", "words"),
    [
        ("mxnet-cu112 1.9.1", True, "7.5", "can use it"),
        ("mxnet-cu112 1.9.1", True, "8.9", "can use it"),
        ("mxnet-cu112 1.9.1", True, "9.0", "nothing: its wheels hold code up to compute capability 8.6"),
        ("mxnet-cu112 1.9.1", True, "12.0", "nothing: "),
        ("mxnet-cu102 1.9.1", True, "8.6", "nothing: its wheels hold code up to compute capability 7.5"),
        ("mxnet 1.9.1", False, "8.6", "nothing: it was built without CUDA"),
    ],
)
def test_stock_mxnet_on_a_gpu(package: str, cuda: bool, capability: str, words: str) -> None:
    record = {"version": "1.9.1", "cuda": cuda, "packages": [package]}
    assert doctor_parts.stock_mxnet_on(capability, record).startswith(words)


def test_stock_mxnet_that_cannot_be_imported() -> None:
    assert doctor_parts.stock_mxnet_on("8.6", {"error": "OSError"}).startswith("unknown")


def test_a_part_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_parts, "_SECONDS", 0.01)
    assert doctor_parts.isolated("packages") == {"error": "it did not end within 0.01 seconds"}
