"""Runners of a compiled model, one for each thread that calls it."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Optional, cast

from mxnet_trt_property import cuda_driver
from mxnet_trt_property.engines.registry import Buffer, Device, FlexibleProgram, Program, Runner, Shapes
from mxnet_trt_property.errors import EngineError, message

Buffers = tuple[Buffer, ...]
Key = tuple[Device, Optional[Shapes]]
"""What a seat is for: a device and, where the program serves several, the arrays' shapes."""

# A thread that calls a model at ever other sizes keeps so many seats; each has memory of its own.
_MOST_SEATS = 8


class Seat:
    """A runner and, for arrays on a GPU, a stream; one thread at a time uses it."""

    def __init__(self, program: Program, device: Device, shapes: Optional[Shapes] = None) -> None:
        self.device = device
        self.key: Key = (device, shapes)
        self.runner: Runner = (
            program.runner(device) if shapes is None else cast(FlexibleProgram, program).runner_for(device, shapes)
        )
        self.stream = 0
        self._tied: Optional[Tied] = None
        if device.kind == "gpu":
            driver = cuda_driver.default()
            with driver.on_device(device.gpu_index):
                self.stream = driver.stream_create()
                weakref.finalize(self, _destroy_stream, device.gpu_index, self.stream)

    def run(self, inputs: Buffers, outputs: Buffers, stream: Optional[int]) -> None:
        """Runs; returns when the outputs are written, or with a `stream` given when the work is queued there."""
        self.runner.run(inputs, outputs, self.target(stream))
        self.wait(stream)

    def target(self, stream: Optional[int]) -> int:
        """Returns the stream to run on: the caller's or the seat's own; for arrays in host memory there is none."""
        return self.stream if stream is None or self.device.kind == "cpu" else stream

    def wait(self, stream: Optional[int]) -> None:
        """Waits for arrays on a GPU where the caller has given no stream to wait for himself."""
        if self.stream and stream is None:
            driver = cuda_driver.default()
            with driver.on_device(self.device.gpu_index):
                driver.synchronize(self.stream)

    def tie(self, inputs: Buffers, outputs: Buffers, stream: Optional[int]) -> Tied:
        """Returns runs on these arrays; they must stay until `untie`."""
        self._tied = Tied(self, inputs, outputs, stream)
        pin = getattr(self.runner, "pin", None)  # see engines.registry.ReplayableRunner
        if pin is not None and self.device.kind == "cpu":
            pin([buffer.address for buffer in (*inputs, *outputs)])
        return self._tied

    def untie(self) -> None:
        """Ends the use of the arrays of `tie`."""
        tied, self._tied = self._tied, None
        unpin = getattr(self.runner, "unpin", None)
        if tied is not None and unpin is not None and self.device.kind == "cpu":
            with contextlib.suppress(EngineError):  # at the end of a process the driver may be gone
                unpin()

    def leave_behind(self) -> object:
        """Makes later runs fail, in the child of a fork; returns what must not be freed."""
        tied, runner = self._tied, self.runner
        self._tied, self.runner = None, LeftBehind()
        return (runner, tied.leave_behind() if tied is not None else None)

    def close(self) -> None:
        """Closes the runner, after a run under way."""
        tied = self._tied
        if tied is not None:
            tied.forget_replay()
        self.runner.close()


class LeftBehind:
    """Stands for program and runner of a compiled model in the child of a fork."""

    size_bytes = 0

    def runner(self, device: Device) -> Runner:
        """Refuses."""
        raise _left_behind()

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], stream: int) -> None:
        """Refuses."""
        raise _left_behind()

    def close(self) -> None:
        """Does nothing."""


def _left_behind() -> EngineError:
    return EngineError(
        message(
            "A compiled model cannot run in the child of a fork",
            found="an engine of the parent process",
            next_step="call compile or load in the child, or start it with multiprocessing's 'spawn'",
        )
    )


class Tied:
    """Runs of a seat on fixed arrays: by the runner at first, then by the replay that it captured, if it has one."""

    def __init__(self, seat: Seat, inputs: Buffers, outputs: Buffers, stream: Optional[int]) -> None:
        self._lock = threading.Lock()  # a replay asks nobody whether the runner is being closed
        self._seat = seat
        self._arguments = (inputs, outputs, stream)
        self._has_run = False
        self._replay: Optional[Callable[[], None]] = None

    def run(self) -> None:
        """Runs once; see `Seat.run`."""
        with self._lock:
            if self._replay is not None:
                self._replay()
                return
            self._seat.run(*self._arguments)
            if not self._has_run:
                self._has_run = True
                self._replay = self.bare()

    def bare(self) -> Optional[Callable[[], None]]:
        """Returns the runner's replay on the arrays, which waits as `Seat.run` does, or None if it has none."""
        make = getattr(self._seat.runner, "bare", None)
        inputs, outputs, stream = self._arguments
        if make is None:
            return None
        try:
            replay: Callable[[], None] = make(inputs, outputs, self._seat.target(stream))
        except EngineError:
            return None  # the library could not be captured, of which the runner has warned
        if not self._seat.stream or stream is not None:
            return replay

        def replay_and_wait() -> None:
            replay()
            self._seat.wait(None)

        return replay_and_wait

    def leave_behind(self) -> object:
        """Makes later runs ask the runner, in the child of a fork; returns what must not be freed."""
        self._lock = threading.Lock()  # a thread of the parent may have held it
        left, self._replay = self._replay, None
        self._has_run = True
        return left

    def forget_replay(self) -> None:
        """Makes later runs ask the runner, which is about to be closed."""
        with self._lock:
            self._has_run, self._replay = True, None


def _destroy_stream(gpu_index: int, stream: int) -> None:
    driver = cuda_driver.default()
    try:
        with driver.on_device(gpu_index):
            driver.stream_destroy(stream)
    except cuda_driver.CudaError:
        pass  # at the end of a process the driver may be gone, and the stream with it


class Idle:
    """Seats that nobody uses. A deque's append and pop are atomic, so there is no lock."""

    def __init__(self) -> None:
        self._seats: dict[Key, deque[Seat]] = {}

    def give(self, seat: Seat) -> None:
        """Takes back a seat."""
        self._seats.setdefault(seat.key, deque()).append(seat)

    def take(self, key: Key) -> Optional[Seat]:
        """Returns a seat for arrays of this kind, or None."""
        try:
            return self._seats[key].pop()
        except (KeyError, IndexError):
            return None


class Held:
    """The seats of one thread, given back when the thread ends."""

    def __init__(self, idle: Idle) -> None:
        self._idle = idle
        self.seats: OrderedDict[Key, Seat] = OrderedDict()

    def add(self, seat: Seat) -> Seat:
        """Keeps a seat, and closes the one that was not used for the longest time if there are too many."""
        self.seats[seat.key] = seat
        if len(self.seats) > _MOST_SEATS:
            self.seats.popitem(last=False)[1].close()
        return seat

    def __del__(self) -> None:
        for seat in self.seats.values():
            self._idle.give(seat)
