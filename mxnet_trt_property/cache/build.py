"""From a model to a program by way of the cache: read it, or build it once for all processes and keep it.

Whatever goes wrong with the cache, the engine is built as if there were none, with a line in the log.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Protocol, Union, runtime_checkable

from mxnet_trt_property import building, settings
from mxnet_trt_property._version import __version__
from mxnet_trt_property.cache import keys
from mxnet_trt_property.cache.entry import Buffer, Entry
from mxnet_trt_property.cache.folder import Folder, FolderError, default_path
from mxnet_trt_property.engines.registry import Device, Engine, Options, Program
from mxnet_trt_property.errors import DeviceMemoryError
from mxnet_trt_property.logs import warn_once

_log = logging.getLogger("mxnet_trt_property")

PATIENCE_S = 300.0
"""How long to wait for another process that builds the same engine. The longest builds take minutes."""

KIND = "engine"


class Packed(NamedTuple):
    """A built engine as the cache keeps it; see `entry.Entry` for what the parts mean."""

    meta: Mapping[str, Any]
    head: Buffer
    body: Union[Buffer, Path]


class Shelf:
    """Where an engine keeps what belongs to a program or to a machine, beside the program itself."""

    def __init__(self, folder: Folder, model: bytes) -> None:
        """Makes the shelf of the model whose part of the key is `model`."""
        self._folder = folder
        self._model = model

    def get(self, kind: str, *parts: str, shared: bool = False) -> Optional[bytes]:
        """Returns what `put` kept under the same words, or None.

        Args:
            kind: What it is.
            parts: What it depends on, besides the model.
            shared: Whether it serves all models.
        """
        found = self._folder.load(kind, self._key(kind, parts, shared), keep_body=True)
        return None if found is None else found.body

    def put(self, kind: str, data: Buffer, *parts: str, shared: bool = False) -> None:
        """Keeps data; the log tells where it cannot."""
        meta = {"kind": kind, "of": list(parts), "package": __version__}
        self._folder.store(kind, self._key(kind, parts, shared), meta, b"", data)

    def _key(self, kind: str, parts: Sequence[str], shared: bool) -> bytes:
        return keys.beside(kind, b"" if shared else self._model, *parts)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Optional[Path]]:
        """Gives a folder on the disk of the cache that is removed afterwards; None where there is none to be had."""
        with contextlib.ExitStack() as stack:
            try:
                path: Optional[Path] = stack.enter_context(self._folder.scratch())
            except OSError as error:
                _log.debug("no room beside the cache: %s", error)
                path = None
            yield path

    @contextlib.contextmanager
    def file(self, data: bytes) -> Iterator[Path]:
        """Gives a file with these contents in the folder of the entries, removed afterwards.

        Raises:
            OSError: It cannot be written.
        """
        with self._folder.temporary() as (stream, path):
            stream.write(data)
            stream.flush()
            yield path


@runtime_checkable
class CachingEngine(Engine, Protocol):
    """An engine whose programs can be kept on disk."""

    def cache_variants(self, device: Device) -> Sequence[str]:
        """Returns for which machines an engine may have been built to serve arrays of `device` here.

        The first is the one that `build_packed` builds for. Empty: nothing can be kept on this machine.
        """

    def build_packed(
        self, model: bytes, options: Options, device: Device, label: str, shelf: Shelf, keep: Callable[[Packed], None]
    ) -> Program:
        """Builds as `build` does, and gives the program in packed form to `keep` if it can be packed.

        Raises:
            EngineError: As `build` does.
        """

    @property
    def keeps_body(self) -> bool:
        """Whether `unpack` wants the large part of an entry in memory."""

    def unpack(self, packed: Entry, options: Options, device: Device, label: str, shelf: Shelf) -> Program:
        """Returns the program of an entry, ready to run.

        Raises:
            Exception: The library refused it, or the entry is not what `build_packed` packs.
        """


def get(
    engine: Engine,
    model: Callable[[], bytes],
    recipe: Optional[keys.Recipe],
    options: Options,
    device: Device,
    label: str,
    config: settings.Settings,
) -> tuple[Program, bool]:
    """Returns the program of a model and whether it came out of the cache.

    Args:
        engine: The engine to build with.
        model: Writes the ONNX model.
        recipe: What the model is made of; None where only its bytes tell.
        options: The options of the build.
        device: Where the arrays lie.
        label: What the model is, in messages.
        config: Whether there is a cache, and where.

    Raises:
        EngineError: The build failed.
    """
    # An engine that can take new weights is of this process: what it takes is not known to the key. One whose layers
    # will be timed is asked for once.
    variants = _variants(engine, device) if config.cache and not (options.refittable or options.layer_times) else ()
    folder = open_folder(config) if variants else None
    if folder is None or not isinstance(engine, CachingEngine):
        return building.build(engine, model(), options, device, label), False
    caching = engine
    written: Optional[bytes] = None
    if recipe is None:
        written = model()
        part = keys.of_model(written)
    else:
        part = keys.of_model(recipe)
    wanted = [keys.of_engine(part, engine.name, engine.version(), variant, options) for variant in variants]
    shelf = Shelf(folder, part)
    refused: set[int] = set()  # so that the second look tells nothing twice

    def load() -> Optional[Program]:
        for key in wanted:
            packed = folder.load(KIND, key, engine.keeps_body, refused)
            if packed is not None:
                try:
                    return engine.unpack(packed, options, device, label, shelf)
                except DeviceMemoryError:
                    raise  # it is as it should be, and what is built now would need as much
                except Exception as error:
                    refused.add(packed.inode)
                    what = f"{label}: {engine.name} refuses an engine of the cache; it is built again"
                    warn_once(what, found=f"{packed.path.name}: {error}", next_step="none: it is written anew")
        return None

    def keep(packed: Packed) -> None:
        described = {
            "engine": engine.name,
            "version": engine.version(),
            "variant": variants[0],
            "precision": options.precision,
            "label": label,
            "package": __version__,
        }
        folder.store(KIND, wanted[0], {**described, "program": packed.meta}, packed.head, packed.body)

    program = load()
    if program is None:
        with folder.lock(KIND, wanted[0], PATIENCE_S):
            program = load()  # by another process meanwhile
            if program is None:
                data = model() if written is None else written

                def work() -> Program:
                    return caching.build_packed(data, options, device, label, shelf, keep)

                return building.run(work, engine.name, label), False
    return program, True


def _variants(engine: Engine, device: Device) -> Sequence[str]:
    if not isinstance(engine, CachingEngine):
        return ()
    try:
        return engine.cache_variants(device)
    except Exception as error:
        _log.debug("%s cannot tell what its engines depend on; none is kept: %s", engine.name, error)
        return ()


def path_of(config: settings.Settings) -> Path:
    """Returns the folder that the settings name.

    Raises:
        FolderError: They name none, and there is no home.
    """
    return Path(os.path.abspath(config.cache_dir)) if config.cache_dir is not None else default_path()


def open_folder(config: settings.Settings) -> Optional[Folder]:
    """Returns the cache's folder, or None where it cannot be used, which is told once."""
    try:
        return Folder(path_of(config), config.cache_mb << 20)
    except FolderError as error:
        warn_once(
            "Built engines are not kept", found=str(error), next_step="mxnet-trt doctor tells what the folder needs"
        )
        return None
