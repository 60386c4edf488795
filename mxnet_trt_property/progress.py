"""What a user sees of a long build: a bar on a terminal, lines in the log elsewhere; nothing for the first second.

The bar goes to stderr, since stdout belongs to the program. Engines that tell how far they are call `Progress.start`,
`step` and `finish`; of the others only the time is shown.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import TracebackType
from typing import Any, Optional

_log = logging.getLogger("mxnet_trt_property")

# Seconds before anything is shown, between two looks at a bar, and between two lines of the log.
QUIET_S = 1.0
_BAR_S = 0.25
_LINE_S = 10.0

_current = threading.local()


class _Phase:
    """A phase of a build: how many steps it has, and how many are done."""

    def __init__(self, parent: str, steps: int) -> None:
        self.parent = parent
        self.steps = max(1, steps)
        self.done = 0


class Progress:
    """How far some work is, shown while the block runs.

    Any thread may report. The phases of TensorRT form a tree; a phase counts in its parent's step.

    Args:
        what: What is done, in words that "since 3 s" can follow.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._phases: dict[str, _Phase] = {}
        self._fraction: Optional[float] = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._begun = 0.0

    @property
    def fraction(self) -> Optional[float]:
        """How much of the build is done, from 0 to 1; None where the engine does not tell."""
        with self._lock:
            return self._fraction

    def start(self, phase: str, parent: str, steps: int) -> None:
        """Begins a phase of `steps` steps inside `parent` (empty: the whole)."""
        with self._lock:
            self._phases[phase] = _Phase(parent, steps)
            self._count()

    def step(self, phase: str, index: int) -> None:
        """Ends step `index` of a phase."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase].done = index + 1
            self._count()

    def finish(self, phase: str) -> None:
        """Ends a phase, also one with steps left."""
        with self._lock:
            ended = self._phases.pop(phase, None)
            if ended is not None and not ended.parent:
                self._fraction = 1.0

    def _count(self) -> None:
        """Adds the phases up. The result never falls: a parent's step may begin a second child."""
        whole = [name for name, phase in self._phases.items() if not phase.parent]
        found = max((self._share(name) for name in whole), default=0.0)
        self._fraction = max(self._fraction or 0.0, found)

    def _share(self, name: str) -> float:
        phase = self._phases[name]
        inner = sum(self._share(n) for n, p in self._phases.items() if p.parent == name)
        return min(1.0, (phase.done + min(1.0, inner)) / phase.steps)

    def __enter__(self) -> Progress:
        self._begun = time.perf_counter()
        self._thread = threading.Thread(target=self._show, name="mxnet-trt-progress", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is exiting: a build without a bar
            self._thread = None
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _show(self) -> None:
        if self._ended.wait(QUIET_S):
            return
        bar = self._bar()
        if bar is None:
            self._write_lines()
        else:
            with bar:
                while not self._ended.wait(_BAR_S):
                    bar.update(round(100 * (self.fraction or 0)) - bar.n)
                    bar.refresh()

    def _bar(self) -> Optional[Any]:
        """Returns a bar on the terminal that stderr is, or None where it is not one."""
        if sys.stderr is None or not sys.stderr.isatty():
            return None
        try:
            from tqdm import tqdm
        except ImportError:  # installed without the package's dependencies; the log says the same
            return None
        known = self.fraction is not None
        layout = "{desc} |{bar}| {percentage:3.0f}% [{elapsed}]" if known else "{desc} [{elapsed}]"
        bar = tqdm(total=100, desc=self._what, bar_format=layout, file=sys.stderr, leave=False)
        bar.start_t -= time.perf_counter() - self._begun
        return bar

    def _write_lines(self) -> None:
        waited = QUIET_S
        while True:
            fraction = self.fraction
            done = "" if fraction is None else f", {100 * fraction:.0f} % done"
            _log.info("%s since %.0f s%s", self._what, time.perf_counter() - self._begun, done)
            if self._ended.wait(_LINE_S - waited):
                return
            waited = 0.0
