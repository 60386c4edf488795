"""The import hook and the compatibility shims, each case in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mxnet_trt_property import shims

ROOT = Path(__file__).resolve().parents[1]
PTH = ROOT / "mxnet_trt_property.pth"

# A stand-in for activation that counts, and the hook's finders as a list.
PRELUDE = """
import sys, types
calls = []
activation = types.ModuleType("mxnet_trt_property.activation")
activation.install = lambda: calls.append("install")
sys.modules["mxnet_trt_property.activation"] = activation
def hooks():
    return [f for f in sys.meta_path if type(f).__module__ == "mxnet_trt_property._autoload"]
"""


@pytest.fixture
def fake_mxnet(tmp_path: Path) -> Path:
    """A package named mxnet that wants what the real one wants of its surroundings."""
    package = tmp_path / "mxnet"
    package.mkdir()
    (package / "__init__.py").write_text(
        textwrap.dedent(
            """
            import os
            from distutils.version import LooseVersion, StrictVersion
            import numpy
            PZERO, mirr, sometrue, msort = numpy.PZERO, numpy.mirr, numpy.sometrue, numpy.msort
            assert LooseVersion("1.26.4") >= LooseVersion("1.17") and StrictVersion("1.9") < StrictVersion("1.10")
            if os.environ.get("FAKE_MXNET_FAILS"):
                raise OSError("libmxnet.so: no such file")
            """
        )
    )
    (package / "symbol.py").write_text("value = 7\n")
    return tmp_path


def run(
    program: str, *flags: str, path: Path = ROOT, prelude: str = PRELUDE, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs a program on the source tree with the .pth turned off, and expects it to succeed."""
    settings = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "MXNET_TENSORRT_AUTOLOAD": "0", **env}
    command = [sys.executable, *flags, "-c", prelude + textwrap.dedent(program)]
    result = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_importing_the_package_hooks_the_next_import_of_mxnet(fake_mxnet: Path) -> None:
    run(
        """
        import mxnet_trt_property
        mxnet_trt_property._autoload.register()
        assert len(hooks()) == 1 and not calls and "numpy" not in sys.modules
        import mxnet
        assert calls == ["install"] and not hooks()
        import importlib
        importlib.reload(sys.modules["json"] if "json" in sys.modules else importlib.import_module("json"))
        assert calls == ["install"]
        """,
        "-W",
        "ignore::DeprecationWarning",  # Python 3.9's distutils may be setuptools' one, which warns.
        path=fake_mxnet,
    )


def test_names_are_added_for_the_import_only(fake_mxnet: Path) -> None:
    run(
        """
        import numpy, mxnet_trt_property
        from mxnet_trt_property import shims
        before = dict(vars(numpy))
        had_distutils = "distutils" in sys.modules
        import mxnet
        after = vars(numpy)
        assert all(after[name] is value for name, value in before.items())
        added = {name for name in after if name not in before and not isinstance(after[name], types.ModuleType)}
        assert added <= {"bool", "int", "Inf"}, added
        assert added <= {name.split(".")[1] for name in shims.applied() if name.startswith("numpy.")}
        assert sys.version_info < (3, 12) or had_distutils or "distutils" not in sys.modules
        assert mxnet.PZERO == 0.0 and mxnet.sometrue([0, 1]) and mxnet.msort([2, 1]).tolist() == [1, 2]
        try:
            mxnet.mirr([1], 1, 1)
        except RuntimeError as error:
            assert "numpy" in str(error)
        """,
        path=fake_mxnet,
    )


def test_a_submodule_is_imported_first(fake_mxnet: Path) -> None:
    run(
        "import mxnet_trt_property, mxnet.symbol; assert mxnet.symbol.value == 7 and calls == ['install']",
        path=fake_mxnet,
    )


def test_mxnet_was_imported_before() -> None:
    run(
        """
        sys.modules["mxnet"] = types.ModuleType("mxnet")
        import mxnet_trt_property
        assert calls == ["install"] and not hooks()
        """
    )


def test_mxnet_is_missing() -> None:
    run(
        """
        import mxnet_trt_property
        sys.path[:] = [p for p in sys.path if not p.endswith("-packages")]
        try:
            import mxnet
        except ModuleNotFoundError as error:
            assert error.name == "mxnet"
        else:
            raise AssertionError(mxnet)
        assert not calls
        """
    )


def test_an_error_of_mxnet_itself_is_not_touched(fake_mxnet: Path) -> None:
    run(
        """
        import os, warnings, mxnet_trt_property
        warnings.simplefilter("error", RuntimeWarning)
        os.environ["FAKE_MXNET_FAILS"] = "1"
        try:
            import mxnet
        except OSError as error:
            assert str(error) == "libmxnet.so: no such file"
        assert not calls and "mxnet" not in sys.modules
        import numpy
        assert "mirr" not in vars(numpy) or numpy.__version__ < "1.20"
        del os.environ["FAKE_MXNET_FAILS"]
        import mxnet
        assert calls == ["install"]
        """,
        path=fake_mxnet,
    )


@pytest.mark.parametrize("flags", [(), ("-W", "error::RuntimeWarning")])
def test_a_failing_install_is_a_warning(fake_mxnet: Path, flags: tuple[str, ...]) -> None:
    result = run(
        """
        def install():
            raise KeyError("symbol is gone")
        activation.install = install
        import mxnet_trt_property, mxnet.symbol
        assert mxnet.symbol.value == 7 and not hooks()
        """,
        *flags,
        path=fake_mxnet,
    )
    for text in ("Traceback", "KeyError: 'symbol is gone'", "without TensorRT", "MXNET_TENSORRT_AUTOLOAD=0"):
        assert text in result.stderr


def test_find_spec_is_what_it_would_be(fake_mxnet: Path) -> None:
    run(
        """
        import importlib.util
        stock = importlib.util.find_spec("mxnet")
        import mxnet_trt_property
        spec = importlib.util.find_spec("mxnet")
        assert "mxnet" not in sys.modules and not calls and len(hooks()) == 1
        assert type(spec.loader) is type(stock.loader) and spec.origin == stock.origin
        assert spec.submodule_search_locations == stock.submodule_search_locations
        assert spec.loader.get_source("mxnet") == stock.loader.get_source("mxnet")
        assert importlib.util.find_spec("json").loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["mxnet"] = module
        spec.loader.exec_module(module)
        assert calls == ["install"] and not hooks() and "exec_module" not in vars(spec.loader)
        """,
        path=fake_mxnet,
    )


def test_reload_works(fake_mxnet: Path) -> None:
    run(
        """
        import importlib, mxnet_trt_property, mxnet.symbol
        importlib.reload(mxnet.symbol)
        assert mxnet.symbol.value == 7 and calls == ["install"]
        """,
        path=fake_mxnet,
    )


def pth_line() -> str:
    lines = PTH.read_text(encoding="ascii").splitlines()
    assert len(lines) == 1 and lines[0].startswith("import ")  # site.py runs nothing else.
    return f"exec({lines[0]!r})\n"


@pytest.mark.parametrize(("value", "hooked"), [("", 1), ("1", 1), ("0", 0), ("off", 0), (" False ", 0)])
def test_the_pth_obeys_autoload(value: str, hooked: int) -> None:
    run(pth_line() + f"assert len(hooks()) == {hooked}", MXNET_TENSORRT_AUTOLOAD=value)


def test_the_pth_of_a_removed_package_is_silent() -> None:
    command = [sys.executable, "-I", "-S", "-c", pth_line()]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_pth_loads_next_to_nothing() -> None:
    program = (
        "import os, sys; before = set(sys.modules)\n"
        + pth_line()
        + "print(*sorted(set(sys.modules) - before), sep='\\n')"
    )
    result = run(program, "-S", prelude="", MXNET_TENSORRT_AUTOLOAD="1")
    allowed = {"__future__", "mxnet_trt_property", "mxnet_trt_property._autoload", "mxnet_trt_property._version"}
    assert set(result.stdout.split()) <= allowed


def test_mxnet_works_on_this_numpy() -> None:
    """MXNet itself: the import without a warning, and what newer NumPy versions broke at run time."""
    run(
        """
        import tempfile, numpy as np, mxnet_trt_property
        import mxnet as mx
        assert calls == ["install"]
        # NumPy 2 prints the integers of a tuple with their type.
        shape = (np.int64(2), np.int32(3))
        assert mx.nd.zeros(shape).shape == (2, 3)
        assert mx.nd.ones((6,)).reshape(shape).shape == (2, 3)
        assert mx.sym.reshape(mx.sym.var("x"), shape=shape).infer_shape(x=(6,))[1] == [(2, 3)]
        a = mx.nd.arange(12).reshape((3, 4))
        a[np.int64(2)] = np.float64(5.0)
        assert a[2].asnumpy().tolist() == [5.0] * 4
        # ndarray.tostring is gone from NumPy 2.3.
        packed = mx.recordio.pack(mx.recordio.IRHeader(0, [1.0, 2.0], 3, 0), b"text")
        header, text = mx.recordio.unpack(packed)
        assert text == b"text" and header.label.tolist() == [1.0, 2.0] and header.id == 3
        packed = mx.recordio.pack(mx.recordio.IRHeader(9, 4.0, 3, 0), b"text")
        assert mx.recordio.unpack(packed)[0] == mx.recordio.IRHeader(0, 4.0, 3, 0)
        # NEP 50: a scalar of NumPy must not widen an array of MXNet.
        for scalar in (2, 2.0, np.float64(2), np.int64(2), np.float32(2)):
            assert (mx.nd.ones((2,)) * scalar).dtype == np.float32
            assert (mx.np.ones((2,)) * scalar).dtype == np.float32
        mask = mx.np.array([1, 0], dtype=mx.np.bool)
        assert mask.dtype == np.bool_ and mx.np.ones((2,))[mask].shape == (1,)
        assert mx.np.einsum("ij->j", mx.np.ones((2, 3))).tolist() == [2, 2, 2]
        assert isinstance(np.any(mx.np.array([0.0, 1.0]) > 0), mx.np.ndarray)
        batches = mx.io.NDArrayIter(np.random.rand(10, 3), np.arange(10), batch_size=4, shuffle=True)
        assert [batch.data[0].shape for batch in batches] == [(4, 3)] * 3
        with tempfile.NamedTemporaryFile() as file:
            mx.nd.save(file.name, {"w": mx.nd.array([[1, 2]], dtype="int64")})
            assert mx.nd.load(file.name)["w"].dtype == np.int64
        weight = mx.nd.zeros((8, 8))
        mx.init.Orthogonal()(mx.init.InitDesc("x_weight"), weight)
        """,
        "-W",
        "error",
        "-W",
        "ignore::SyntaxWarning",  # MXNet's docstrings, on the first import of Python 3.12 and newer.
        "-W",
        "ignore:invalid escape:DeprecationWarning",
        "-W",
        "ignore:`np.bool`:DeprecationWarning",  # NumPy 1.23, at each use in MXNet.
        "-W",
        "ignore:Please import:DeprecationWarning",  # SciPy, where MXNet asks for its sparse matrices.
        "-W",
        "ignore:tostring:DeprecationWarning",  # NumPy < 2.3, where MXNet's own function is left alone.
        "-W",
        "ignore:The distutils package:DeprecationWarning",  # Python < 3.12, where distutils is left alone.
        "-W",
        "ignore:distutils Version classes:DeprecationWarning",  # The same, where setuptools has put its own there.
    )


def test_applied_names_what_was_added() -> None:
    assert all("." in name for name in shims.applied())


@pytest.mark.parametrize(("text", "numbers"), [("1.26.4", (1, 26, 4)), ("2.1.0rc1", (2, 1, 0)), ("", ())])
def test_version_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert shims._version_of(text) == numbers
