"""Names that MXNet 1.9.1 expects of NumPy and of the standard library, and that newer ones no longer have.

MXNet binds most of them to names of its own while it is imported. So they are added before, and taken away
again after; only the few that MXNet's functions look up while they run stay. Nothing of NumPy's that exists is
ever changed. Two of MXNet's own functions that a newer NumPy broke are mended (`repair`).

The import hook calls `apply()` before MXNet is executed, `retract()` after it, and `repair()` when it worked;
`applied()` lists what was added. What was tried, and what still does not work: docs/compatibility.md.
"""

from __future__ import annotations

import functools
import numbers
import re
import struct
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Callable

# NumPy names that are functions today under another name. The values are wrapped, never handed out as they are:
# MXNet registers its own function under each for NumPy's __array_function__ protocol, and an alias of `numpy.any`
# would replace what it registered for `numpy.any`.
_RENAMED = {
    "alltrue": "all",
    "cumproduct": "cumprod",
    "fix": "trunc",
    "in1d": "isin",
    "product": "prod",
    "round_": "round",
    "row_stack": "vstack",
    "sometrue": "any",
    "trapz": "trapezoid",
}

# Financial functions: NumPy < 2 has them as functions that raise, and so they are here.
_WITHOUT_SUCCESSOR = ("mirr", "npv", "pmt", "ppmt", "pv", "rate")

_CONSTANTS: dict[str, Any] = {
    "Inf": float("inf"),
    "NAN": float("nan"),
    "NINF": float("-inf"),
    "NZERO": -0.0,
    "NaN": float("nan"),
    "PINF": float("inf"),
    "PZERO": 0.0,
    "bool": bool,
    "int": int,
}

# Read by functions of MXNet at each call: `bool` by indexing and comparison in mx.np, `Inf` by the estimator's event
# handlers, `int` by the random generators' tests in mx.test_utils, `compat` by mx.np.einsum.
_NEEDED_AT_RUN_TIME = frozenset({"bool", "int", "Inf", "compat"})

_NUMPY_WITHOUT_ALIASES = (1, 24)
_NUMPY_WITH_TYPED_REPR = (2, 0)
_NUMPY_WITHOUT_TOSTRING = (2, 3)
_PYTHON_WITHOUT_DISTUTILS = (3, 12)

_temporary_names: set[str] = set()
_temporary_modules: dict[str, ModuleType] = {}
_record: dict[str, None] = {}


def apply() -> None:
    """Adds what MXNet's import needs and what is missing. Calling it again is harmless."""
    try:
        import numpy as np  # Where NumPy is missing, MXNet's own error is the one to see.
    except ImportError:
        return
    keeps = _version_of(np.__version__) >= _NUMPY_WITHOUT_ALIASES
    # `vars`, not `hasattr`: NumPy's module __getattr__ warns about the very names that are asked for here.
    namespace = vars(np)
    for name, value in _missing_names(np):
        if name in namespace:
            continue
        namespace[name] = value
        if keeps and name in _NEEDED_AT_RUN_TIME:
            _record[f"numpy.{name}"] = None
        else:
            _temporary_names.add(name)
            _record[f"numpy.{name} (during import)"] = None
    # Also where setuptools brings a distutils of its own: that one warns too, and will go away some day.
    if sys.version_info >= _PYTHON_WITHOUT_DISTUTILS and "distutils" not in sys.modules:
        _add_distutils()


def retract() -> None:
    """Takes away what only MXNet's import needed, so that other packages see the NumPy that they know."""
    numpy = sys.modules.get("numpy")
    for name in _temporary_names if numpy is not None else ():
        vars(numpy).pop(name, None)
    _temporary_names.clear()
    for name, module in _temporary_modules.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    _temporary_modules.clear()


def repair() -> None:
    """Mends the functions of an imported MXNet that newer NumPy versions broke at run time."""
    import numpy as np

    version = _version_of(np.__version__)
    if version >= _NUMPY_WITH_TYPED_REPR:
        # MXNet passes parameters to its C library as texts. In NumPy 2 the text of a tuple with a NumPy integer
        # reads "(np.int64(2),)", which the library rejects. Both modules use `str` for these texts and nothing else.
        for name in ("mxnet._ctypes.ndarray", "mxnet._ctypes.symbol"):
            module = sys.modules.get(name)
            if module is not None and "str" not in vars(module):
                vars(module)["str"] = functools.partial(_parameter_text, np.generic)
                _record[f"{name}.str"] = None
    if version >= _NUMPY_WITHOUT_TOSTRING:
        recordio = sys.modules.get("mxnet.recordio")
        if recordio is not None and not isinstance(vars(recordio)["pack"], functools.partial):
            vars(recordio)["pack"] = functools.partial(_pack, np, recordio)
            _record["mxnet.recordio.pack"] = None


def applied() -> tuple[str, ...]:
    """Returns what was added so far, each as a dotted name."""
    return tuple(_record)


def _missing_names(np: Any) -> Iterator[tuple[str, Any]]:
    yield from _CONSTANTS.items()
    for name, successor in _RENAMED.items():
        yield name, _renamed(name, successor)
    for name in _WITHOUT_SUCCESSOR:
        yield name, _without_successor(name)
    yield "msort", functools.partial(_sort_first_axis, np)
    # NumPy 2.0 has numpy.compat still, on no public path; MXNet wants one name of it.
    compat = ModuleType("numpy.compat")
    vars(compat)["basestring"] = str
    yield "compat", compat


def _renamed(name: str, successor: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        import numpy as np

        return getattr(np, successor)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"Calls numpy.{successor}; numpy.{name} is gone from this NumPy."
    return call


def _without_successor(name: str) -> Callable[..., Any]:
    def call(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError(f"numpy.{name} was removed from NumPy 1.20 (NEP 32) | next step: use numpy_financial.{name}")

    call.__name__ = call.__qualname__ = name
    return call


def _sort_first_axis(np: Any, a: Any) -> Any:
    return np.sort(a, axis=0)


def _parameter_text(numpy_scalar: type, value: object) -> str:
    return str(_plain(numpy_scalar, value)) if isinstance(value, (tuple, list)) else str(value)


def _plain(numpy_scalar: Any, value: Any) -> Any:
    """Returns a tuple or list with Python's own numbers in the place of NumPy's."""
    if type(value) in (tuple, list):
        return type(value)(_plain(numpy_scalar, item) for item in value)
    return value.item() if isinstance(value, numpy_scalar) else value


def _pack(np: Any, recordio: Any, header: Any, s: bytes) -> bytes:
    """Does what mx.recordio.pack does, without ndarray.tostring."""
    header = recordio.IRHeader(*header)
    if isinstance(header.label, numbers.Number):
        header = header._replace(flag=0)
    else:
        label = np.asarray(header.label, dtype=np.float32)
        header = header._replace(flag=label.size, label=0)
        s = label.tobytes() + s
    return struct.pack(recordio._IR_FORMAT, *header) + s


@functools.total_ordering
class _Version:
    """The part of distutils' LooseVersion and StrictVersion that MXNet uses: comparing two version texts."""

    def __init__(self, text: str) -> None:
        self._key = _version_of(text)

    def __eq__(self, other: object) -> bool:
        return self._key == _version_of(other) if isinstance(other, (str, _Version)) else NotImplemented

    def __lt__(self, other: str | _Version) -> bool:
        return self._key < _version_of(other)

    def __hash__(self) -> int:
        return hash(self._key)


def _version_of(text: str | _Version) -> tuple[int, ...]:
    """Returns the numbers a version text starts with: (2, 1, 0) for "2.1.0rc1"."""
    if isinstance(text, _Version):
        return text._key
    leading = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in leading.group().split(".")) if leading else ()


def _add_distutils() -> None:
    package, version = ModuleType("distutils"), ModuleType("distutils.version")
    vars(package).update(__path__=[], version=version)
    vars(version).update(LooseVersion=_Version, StrictVersion=_Version)
    _temporary_modules.update({"distutils": package, "distutils.version": version})
    sys.modules.update(_temporary_modules)
    _record["distutils.version (during import)"] = None
