"""An engine whose programs the cache can keep, that builds as slowly as it is told; and a program that uses it.

    python -m tests.cache.engine FOLDER LOG SECONDS [MODEL]

appends "begin PID" and "end PID" to LOG around each build, and prints what it got: "built" or "loaded", and the body.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from mxnet_trt_property import settings
from mxnet_trt_property.cache import build
from mxnet_trt_property.cache.build import Packed, Shelf
from mxnet_trt_property.cache.entry import Entry
from mxnet_trt_property.cache.keys import Recipe
from mxnet_trt_property.engines.registry import Device, Options
from mxnet_trt_property.errors import EngineError

CPU = Device("cpu", 0)


class Program:
    """What was built: the model's bytes, twice."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.size_bytes = len(body)

    def runner(self, device: Device) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


class SlowEngine:
    """Builds slowly, and counts."""

    name = "slow"
    keeps_body = True

    def __init__(self, log: Optional[Path] = None, seconds: float = 0.0) -> None:
        self.log = log
        self.seconds = seconds
        self.builds = 0
        self.loads = 0
        self.fails = False
        self.variants: tuple[str, ...] = ("here",)

    def version(self) -> str:
        return "1"

    def unusable(self, device: Device) -> Optional[str]:
        return None

    def cache_variants(self, device: Device) -> tuple[str, ...]:
        return self.variants

    def build(self, model: bytes, options: Options, device: Device, label: str) -> Program:
        self._tell("begin")
        if self.fails:
            raise EngineError("it was told to fail")
        time.sleep(self.seconds)
        self.builds += 1
        self._tell("end")
        return Program(model * 2)

    def build_packed(
        self, model: bytes, options: Options, device: Device, label: str, shelf: Shelf, keep: Callable[[Packed], None]
    ) -> Program:
        program = self.build(model, options, device, label)
        keep(Packed({"is": "double"}, b"head", program.body))
        return program

    def unpack(self, packed: Entry, options: Options, device: Device, label: str, shelf: Shelf) -> Program:
        assert packed.meta["program"] == {"is": "double"}
        assert packed.head == b"head"
        assert packed.body is not None
        self.loads += 1
        return Program(packed.body)

    def _tell(self, what: str) -> None:
        if self.log is not None:
            with open(self.log, "a", encoding="ascii") as file:
                file.write(f"{what} {os.getpid()}\n")


def config(folder: Path, **options: str) -> settings.Settings:
    """Returns the settings of a cache in `folder`."""
    return settings.read({"cache_dir": str(folder), **options})


def get(
    engine: Any,
    folder: Path,
    model: bytes = b"model",
    options: Optional[Options] = None,
    recipe: Optional[Recipe] = None,
    **settings_: str,
) -> tuple[Any, bool]:
    """Returns what `build.get` does."""
    return build.get(engine, lambda: model, recipe, options or Options(), CPU, "node", config(folder, **settings_))


if __name__ == "__main__":
    given = sys.argv[4].encode() if len(sys.argv) > 4 else b"model"
    made, loaded = get(SlowEngine(Path(sys.argv[2]), float(sys.argv[3])), Path(sys.argv[1]), given)
    print("loaded" if loaded else "built", made.body.decode())
