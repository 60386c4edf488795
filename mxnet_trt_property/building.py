"""Building an engine so that its user sees how far it is and can stop it.

Ctrl-C reaches Python's main thread only, and only between two bytecodes. So where a build is called from the main
thread it runs on another one, and the main thread waits as Python waits, which Ctrl-C ends. Where it is called from one
of MXNet's threads the main thread is inside of MXNet, where Ctrl-C does nothing: the native library then looks at the
signal itself, and passes it on to Python's handler (cpp/interrupts.cc). Either way the engine is asked to stop;
TensorRT does, ONNX Runtime has no means to.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Optional

from mxnet_trt_property import native
from mxnet_trt_property.engines.registry import Device, Engine, Options, Program
from mxnet_trt_property.errors import BuildInterruptedError, message
from mxnet_trt_property.logs import warn_once
from mxnet_trt_property.progress import Progress

_context = threading.local()


class Build:
    """A build under way: how far it is, and whether it shall stop.

    Args:
        progress: What reports of the engine go to.
        stop: Returns whether the build shall stop.
    """

    def __init__(self, progress: Progress, stop: Callable[[], bool]) -> None:
        self.progress = progress
        self._stop = stop

    def is_stopped(self) -> bool:
        """Whether the build shall stop."""
        return self._stop()


def current() -> Optional[Build]:
    """Returns the build that this thread makes, for engines that can report on it and stop it."""
    return getattr(_context, "build", None)


def build(engine: Engine, model: bytes, options: Options, device: Device, label: str) -> Program:
    """Builds a model on an engine; see `Engine.build`.

    Raises:
        EngineError: The build failed.
        BuildInterruptedError: Ctrl-C stopped it, and the main thread gets the KeyboardInterrupt.
        KeyboardInterrupt: Ctrl-C stopped it, and this is the main thread.
    """
    return run(lambda: engine.build(model, options, device, label), engine.name, label)


def run(work: Callable[[], Program], engine: str, label: str) -> Program:
    """Does the work of building on the engine called `engine`, as `build` does.

    Raises:
        EngineError: The build failed.
        BuildInterruptedError: Ctrl-C stopped it, and the main thread gets the KeyboardInterrupt.
        KeyboardInterrupt: Ctrl-C stopped it, and this is the main thread.
    """
    with Progress(f"{label}: building on {engine}") as progress:
        if threading.current_thread() is threading.main_thread():
            return _on_another_thread(work, progress, engine, label)
        with _interrupts() as stop:
            return _as_current(work, Build(progress, stop))


def loading(label: str, engine: str) -> Progress:
    """Returns what shows that a built engine is made ready to run: TensorRT for RTX compiles for the GPU only then."""
    return Progress(f"{label}: making it ready on {engine}")


def interruption(label: str) -> BuildInterruptedError:
    """Returns the error of a build that was stopped."""
    return BuildInterruptedError(
        message(f"Ctrl-C stopped the build of {label}", next_step="call forward() again: it builds the engine anew")
    )


def _as_current(work: Callable[[], Program], made: Build) -> Program:
    outer = current()
    _context.build = made
    try:
        return work()
    finally:
        _context.build = outer


def _on_another_thread(work: Callable[[], Program], progress: Progress, engine: str, label: str) -> Program:
    """Builds on a thread of its own, so that Ctrl-C reaches this one."""
    stop, ended = threading.Event(), threading.Event()
    programs: list[Program] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            programs.append(_as_current(work, Build(progress, stop.is_set)))
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread, whatever it is
            errors.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=run, name="mxnet-trt-build", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is exiting: no thread can be had, and no signal is handled
        return work()
    try:
        ended.wait()
    except BaseException:
        stop.set()
        # TensorRT stops within a step. A second Ctrl-C leaves the build to its thread, which keeps nothing.
        if engine == "onnxruntime":
            what = f"{label}: ONNX Runtime cannot stop a build; waiting for its end"
            warn_once(what, next_step="wait, or press Ctrl-C again to leave it")
        ended.wait()
        for program in programs:
            program.close()
        raise
    thread.join()
    if errors:
        raise errors[0]
    return programs[0]


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether Ctrl-C was pressed since; only where that means KeyboardInterrupt.

    A program with a handler of its own for SIGINT decides itself what the signal is to stop.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    library = native.library()
    before = library.mxtrt_interrupt_count()
    watched = library.mxtrt_watch_interrupts(1) == native.OK
    try:
        yield lambda: watched and library.mxtrt_interrupt_count() != before
    finally:
        if watched:
            library.mxtrt_watch_interrupts(0)
