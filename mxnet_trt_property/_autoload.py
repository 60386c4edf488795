"""The import hook that turns a plain `import mxnet` into one with TensorRT.

`mxnet_trt_property.pth`, at the root of site-packages, calls `register()` when an interpreter starts, in every
program of the environment, whether it uses MXNet or not. So this module imports nothing but `sys`.

The hook stays out of the way: the real finders find mxnet, and its real loader loads it; only that loader's
`exec_module` is shadowed, on the one instance, until mxnet has been imported. Then the hook is gone.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # `typing` costs more than all of this module.
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Callable, Optional

_MXNET = "mxnet"

_NEXT_STEP = (
    "MXNet goes on without TensorRT | next step: reinstall mxnet-trt-property next to this mxnet; "
    "MXNET_TENSORRT_AUTOLOAD=0 turns the import hook off and silences this"
)


def register() -> None:
    """Makes the next `import mxnet` install the hooks of `activation`; does so at once where mxnet is imported.

    Safe to call any number of times. Never raises.
    """
    if _MXNET in sys.modules:
        _guarded(_apply_shims)
        _guarded(_retract_shims)
        _guarded(_repair)
        _guarded(_install)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def unregister() -> None:
    """Removes the import hook, if it is there. Hooks inside an imported mxnet stay."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]


class _Finder:
    """A meta path finder that asks the finders after it, and shadows `exec_module` of the loader they name."""

    def find_spec(
        self,
        fullname: str,
        path: Optional[Sequence[str]] = None,
        target: Optional[ModuleType] = None,
    ) -> Optional[ModuleSpec]:
        """Returns the spec of mxnet that there would be without this hook; None for any other module."""
        if fullname != _MXNET:
            return None
        finders = list(sys.meta_path)
        # Only those after this one: a hook before it has asked already, and might ask this one again, for ever.
        position = next((i for i, finder in enumerate(finders) if finder is self), -1)
        for finder in finders[position + 1 :]:
            find_spec = getattr(finder, "find_spec", None)
            spec: Optional[ModuleSpec] = None if find_spec is None else find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    _shadow_exec_module(spec.loader)
                return spec
        return None


def _shadow_exec_module(loader: Loader) -> None:
    """Sets `exec_module` on the instance: type, resources and source access of the loader stay what they are."""
    original: Optional[Callable[[ModuleType], None]] = getattr(loader, "exec_module", None)
    if original is None or getattr(original, "shadowed_by_autoload", False):
        return

    def exec_module(module: ModuleType) -> None:
        if module.__name__ != _MXNET:  # Loaders of frozen applications and zip files serve many modules.
            original(module)
            return
        _guarded(_apply_shims)
        try:
            original(module)  # An error in here is MXNet's own; the hook stays for the next attempt.
        finally:
            _guarded(_retract_shims)
        vars(loader).pop("exec_module", None)
        unregister()
        _guarded(_repair)
        _guarded(_install)

    vars(exec_module)["shadowed_by_autoload"] = True
    # A loader without a __dict__ cannot be shadowed; MXNet then loads as if there were no hook.
    if hasattr(loader, "__dict__") and not isinstance(loader, type):
        vars(loader)["exec_module"] = exec_module


def _apply_shims() -> None:
    from mxnet_trt_property import shims  # Not before mxnet is wanted: shims costs what _autoload saves.

    shims.apply()


def _retract_shims() -> None:
    from mxnet_trt_property import shims

    shims.retract()


def _repair() -> None:
    from mxnet_trt_property import shims

    shims.repair()


def _install() -> None:
    from mxnet_trt_property import activation

    activation.install()


def _guarded(step: Callable[[], None]) -> None:
    """Runs one step; an error becomes a warning, because a program that ran without this package must go on."""
    try:
        step()
    except Exception:
        import traceback
        import warnings

        text = f"mxnet_trt_property could not hook into MXNet. {_NEXT_STEP}\n{traceback.format_exc()}"
        try:
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        except Warning:  # `python -W error`: the import must go on even so.
            sys.stderr.write(text)
