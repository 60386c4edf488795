"""A TensorRT run captured in a CUDA graph, for the native library to replay without Python.

Host arrays that stay where they are (an executor's) are pinned in place and copied from inside the graph; all others go
through pinned staging memory. Pinning is counted for the process, since executors share arrays.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from mxnet_trt_property import cuda_graph, native
from mxnet_trt_property.cuda_driver import CudaError, Driver
from mxnet_trt_property.engines.registry import Buffer
from mxnet_trt_property.errors import EngineError, message
from mxnet_trt_property.logs import warn_once
from mxnet_trt_property.profiling import Section

if TYPE_CHECKING:
    from mxnet_trt_property.engines.trt_run import TensorRTRunner

# Runs on GPU arrays that were captured at their own addresses; arrays that keep moving go through the runner's memory.
_MOST_IN_PLACE = 4

# Smaller arrays are copied faster than the graph's copy starts, and would share their pages with others.
PIN_FROM_BYTES = 32768

# Outputs up to this size go through staging memory all the same: a run that writes no array of the program's can be
# started before the program's last reader of that array is done (mxtrt_state_begin).
PIN_OUTPUTS_FROM_BYTES = 1 << 20

# For inputs of this size that stay there is a run besides that does not copy them: a forward that is given one sends it
# to the GPU piece by piece while it writes the executor's array (mxtrt_state_write).
FEED_FROM_BYTES = 1 << 20


class CaptureLock:
    """Held while a stream is captured and while a device is waited for: waiting for a device spoils a capture on it.

    The collector may free a runner at any point of a capture, in the very thread that holds the lock: `defer` leaves
    such work to the end of the capture.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0
        self._later: list[Callable[[], None]] = []

    def __enter__(self) -> None:
        self._lock.acquire()
        self._holder = threading.get_ident()

    def __exit__(self, *error: object) -> None:
        self._holder = 0
        self._lock.release()
        while self._later:
            self._later.pop()()

    def defer(self, work: Callable[[], None]) -> bool:
        """Keeps work for when the lock is free, if this thread holds it; returns whether it does."""
        held = self._holder == threading.get_ident()
        if held:
            self._later.append(work)
        return held


CAPTURE_LOCK = CaptureLock()

_pins: dict[tuple[int, int], int] = {}
_pins_lock = threading.Lock()


def pin(driver: Driver, address: int, nbytes: int) -> bool:
    """Pins host memory in place, or counts one more user of it; returns whether it is pinned now."""
    key = (address, nbytes)
    with _pins_lock:
        if key not in _pins:
            try:
                driver.host_register(address, nbytes)
            except CudaError:
                return False  # read-only memory, a page shared with another pinned array, or no memory left to pin
        _pins[key] = _pins.get(key, 0) + 1
        return True


def unpin(driver: Driver, address: int, nbytes: int) -> None:
    """Takes back one `pin`."""
    key = (address, nbytes)
    with _pins_lock:
        _pins[key] -= 1
        if _pins[key] == 0:
            del _pins[key]
            with contextlib.suppress(CudaError):
                driver.host_unregister(address)


class Copy:
    """How one array of the caller's and the captured run come together; see MxtrtCopy in cpp/bridge.h."""

    def __init__(self, address: int, staging: int, nbytes: int, fed: bool = False) -> None:
        self.address = address
        self.staging = staging
        self.nbytes = nbytes
        self.fed = fed


class EarlyStart(NamedTuple):
    """What runs on GPU arrays need to start before MXNet's stream gets to them; see MxtrtReplaySpec in cpp/bridge.h."""

    stream: int
    idle: int


class CapturedRun:
    """An executable graph with the copies around it.

    Args:
        driver: The CUDA driver.
        gpu_index: The device.
        graph: The CUgraphExec; owned by this object from now on.
        stream: The stream for host arrays; 0 for GPU arrays, which run on the caller's.
        inputs: A Copy for each input that the engine has, with its position among the caller's inputs.
        outputs: The same for outputs.
        pinned: (address, bytes) of what was pinned for this run.
        early: What the runs of its runner need for one of them to start early.
        starts_early: Whether this is the one.
    """

    def __init__(
        self,
        driver: Driver,
        gpu_index: int,
        graph: int,
        stream: int,
        inputs: Sequence[tuple[int, Copy]],
        outputs: Sequence[tuple[int, Copy]],
        pinned: Sequence[tuple[int, int]],
        early: Optional[EarlyStart],
        starts_early: bool,
    ) -> None:
        self._early = early
        self._starts_early = starts_early
        self._driver = driver
        self._gpu_index = gpu_index
        self._graph = graph
        self._stream = stream
        self._inputs = inputs
        self._outputs = outputs
        self._pinned = pinned
        self._handles: dict[tuple[int, ...], int] = {}
        self.in_place = frozenset(c.address for _, c in (*inputs, *outputs) if c.address)
        self.is_fed = any(c.fed for _, c in inputs)

    def handle(self, input_positions: Sequence[int]) -> int:
        """Returns a native replay for a caller whose input i of the model is its array `input_positions[i]`."""
        key = tuple(input_positions)
        if key not in self._handles:
            ins = self._copies([(input_positions[i], c) for i, c in self._inputs])
            outs = self._copies(self._outputs)
            address_of = self._driver.address_of
            cuda = native.CCuda(
                address_of("cuCtxPushCurrent_v2"),
                address_of("cuCtxPopCurrent_v2"),
                address_of("cuGraphLaunch"),
                address_of("cuStreamSynchronize"),
                address_of("cuMemcpyDtoDAsync_v2"),
                address_of("cuMemcpyHtoDAsync_v2"),
                address_of("cuEventRecord"),
                address_of("cuStreamWaitEvent"),
            )
            early = self._early or EarlyStart(0, 0)
            spec = native.CReplaySpec(
                cuda,
                self._driver.primary_context(self._gpu_index),
                self._graph,
                self._stream or None,
                (early.stream if self._starts_early else 0) or None,
                early.idle or None,
                ins,
                outs,
                len(self._inputs),
                len(self._outputs),
            )
            self._handles[key] = int(native.library().mxtrt_replay_new(ctypes.byref(spec)))
        return self._handles[key]

    @staticmethod
    def _copies(pairs: Sequence[tuple[int, Copy]]) -> Any:
        array = (native.CCopy * max(1, len(pairs)))()
        for target, (position, copy) in zip(array, pairs):
            target.address, target.staging = copy.address or None, copy.staging or None
            target.bytes, target.position, target.fed = copy.nbytes, position, copy.fed
        return array

    @property
    def is_closed(self) -> bool:
        """Whether the graph is freed."""
        return not self._graph

    def close(self) -> None:
        """Frees graph and replays and unpins memory. The device must be current and no replay under way."""
        while self._handles:
            native.library().mxtrt_replay_free(self._handles.popitem()[1])
        if self._graph:
            graph, self._graph = self._graph, 0
            with contextlib.suppress(CudaError):
                self._driver.graph_free(graph)
        for address, nbytes in self._pinned:
            unpin(self._driver, address, nbytes)
        self._pinned = ()


def replayer(
    driver: Driver, captured: CapturedRun, inputs: Sequence[int], outputs: Sequence[int], stream: int, label: str
) -> Callable[[], None]:
    """Returns a function that replays a captured run on fixed arrays and does nothing else.

    It raises EngineError if the driver refuses, or the run's memory was freed meanwhile. The arrays are the caller's
    to keep.
    """
    handle = captured.handle(range(len(inputs)))
    library = native.library()
    ins = (ctypes.c_void_p * max(1, len(inputs)))(*(a or None for a in inputs))
    outs = (ctypes.c_void_p * max(1, len(outputs)))(*(a or None for a in outputs))
    run = library.mxtrt_replay_run
    c_handle, c_stream = ctypes.c_void_p(handle), ctypes.c_void_p(stream or None)

    def replay() -> None:
        if captured.is_closed:
            raise EngineError(message(f"{label} could not be replayed", found="its captured run was closed"))
        status = run(c_handle, ins, outs, c_stream)
        if status < 0:
            driver.check(-status, f"replaying the captured run of {label}")
        if status != native.OK:
            raise EngineError(message(f"{label} could not be replayed", found=(library.mxtrt_error() or b"").decode()))

    return replay


class Captures:
    """The captured runs of one runner; the runner's lock is held by every caller.

    Attributes:
        runs: The captured runs in the order to try them: those on arrays in place, then those through staging memory,
            and last the one whose inputs are sent to the GPU before it starts.
    """

    def __init__(self, driver: Driver, gpu_index: int, label: str) -> None:
        self.runs: list[CapturedRun] = []
        self._driver = driver
        self._gpu_index = gpu_index
        self._label = label
        self._stable: frozenset[int] = frozenset()
        self._stream = 0
        self._early: Optional[EarlyStart] = None
        self._possible = True

    def set_stable(self, addresses: Iterable[int]) -> None:
        """Replaces the addresses whose arrays stay, and forgets the runs that work on the old ones in place."""
        self._forget([run for run in self.runs if run.in_place])
        self._stable = frozenset(addresses)

    def _forget(self, runs: Iterable[CapturedRun]) -> None:
        gone = tuple(runs)
        if gone:
            with CAPTURE_LOCK:
                self._driver.synchronize_device()
        for run in gone:
            self.runs.remove(run)
            run.close()

    def replayer(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], stream: int
    ) -> Optional[Callable[[], None]]:
        """Returns a function that replays the first run that fits the arrays, or None where none does."""
        ins, outs = [b.address for b in inputs], [b.address for b in outputs]
        addresses = {*ins, *outs}
        for run in self.runs:
            if run.in_place <= addresses and not run.is_fed:
                return replayer(self._driver, run, ins, outs, stream, self._label)
        return None

    def capture(self, runner: TensorRTRunner) -> None:
        """Captures the run that `runner` just made; a library that cannot be captured goes on without."""
        if not self._possible:
            return
        try:
            with Section("capture", self._label):
                if runner.host_arrays:
                    self._capture_host_arrays(runner)
                else:
                    self._capture_gpu_arrays(runner)
        except EngineError as error:
            self._possible = False
            warn_once(
                f"{self._label} cannot be captured in a CUDA graph; each run is queued anew, which is slower",
                found=str(error),
                next_step="nothing, if it is fast enough: results are the same; else another version of TensorRT",
            )

    def close(self) -> None:
        """Frees everything. The device must be current and no replay under way."""
        while self.runs:
            self.runs.pop().close()
        if self._early is not None:
            early, self._early = self._early, None
            self._driver.stream_destroy(early.stream)
            self._driver.event_destroy(early.idle)
        if self._stream:
            stream, self._stream = self._stream, 0
            self._driver.stream_destroy(stream)

    def _capture_host_arrays(self, runner: TensorRTRunner) -> None:
        """Captures the run through staging memory, and in front of it the one on the arrays that stay."""
        if all(run.in_place for run in self.runs):
            self.runs.append(self._capture(runner, {}, runner.stream, ()))
        if any(run.in_place for run in self.runs):
            return
        in_place, pinned = {}, []
        for i, slot in enumerate(runner.slots):
            smallest = PIN_FROM_BYTES if slot.is_input else PIN_OUTPUTS_FROM_BYTES
            wanted = slot.bound and slot.array in self._stable and slot.nbytes >= smallest
            if wanted and pin(self._driver, slot.array, slot.nbytes):
                in_place[i] = slot.array
                pinned.append((slot.array, slot.nbytes))
        if not pinned:
            return
        self.runs.insert(0, self._capture(runner, in_place, runner.stream, pinned))
        inputs = [i for i in in_place if runner.slots[i].is_input]
        fed = frozenset(i for i in inputs if runner.slots[i].nbytes >= FEED_FROM_BYTES)
        if fed and len(inputs) == len(in_place):  # with an output in place it could not start early
            self.runs.append(self._capture(runner, in_place, runner.stream, (), fed=fed))

    def _capture_gpu_arrays(self, runner: TensorRTRunner) -> None:
        """Captures the run on the caller's arrays; if those keep moving, one through memory of the runner's."""
        if not self._stream:
            self._stream = self._driver.stream_create()
        if not all(run.in_place for run in self.runs):
            return
        in_place = {i: slot.array for i, slot in enumerate(runner.slots) if slot.bound and slot.nbytes}
        arrays = {i: address for i, address in in_place.items() if runner.slots[i].is_input}
        # One that reads arrays which stay, and writes memory of the runner's, may start before MXNet's stream is there.
        starts_early = self._early is None and self._stable.issuperset(arrays.values()) and bool(self._stable)
        if starts_early:
            # Every run of the runner has to tell when its memory is free again: those from before cannot.
            self._forget(self.runs)
            driver = self._driver
            self._early = EarlyStart(driver.stream_create(), driver.event_create())
        if len(self.runs) >= _MOST_IN_PLACE:
            runner.use_own_memory()
            in_place = {}
        self.runs.append(self._capture(runner, in_place, 0, ()))
        if starts_early:
            runner.use_own_memory(inputs=False)
            self.runs.append(self._capture(runner, arrays, 0, (), starts_early=True))

    def _capture(
        self,
        runner: TensorRTRunner,
        in_place: Mapping[int, int],
        stream: int,
        pinned: Sequence[tuple[int, int]],
        starts_early: bool = False,
        fed: frozenset[int] = frozenset(),
    ) -> CapturedRun:
        """Captures the runner's `enqueue`: the slots of `in_place` on their arrays, all others on staging memory.

        The inputs of `fed` are on the GPU before it starts.
        """
        slots = runner.slots
        host = runner.host_arrays
        staging = [slot.pinned if host else slot.own for slot in slots]
        # Copies of GPU arrays that are not in place come from C++, which knows where the arrays are.
        copies_in = host or bool(in_place)
        copies_out = copies_in and not starts_early
        for i, address in in_place.items() if host else ():
            slots[i].pinned = address
        try:
            with CAPTURE_LOCK:
                target = stream or self._stream
                work = functools.partial(runner.enqueue_parts, target, copies_in, copies_out, fed)
                graph = cuda_graph.capture(self._driver, target, work, full_edges=runner.kernels_overlap_wrongly)
        except BaseException:
            for address, nbytes in pinned:
                unpin(self._driver, address, nbytes)
            raise
        finally:
            for slot, memory in zip(slots, staging) if host else ():
                slot.pinned = memory
        found: tuple[list[tuple[int, Copy]], list[tuple[int, Copy]]] = ([], [])
        for i, slot in enumerate(slots):
            if slot.bound and slot.nbytes:
                position = i if slot.is_input else i - sum(s.is_input for s in slots)
                found[0 if slot.is_input else 1].append(
                    (position, Copy(in_place.get(i, 0), slot.own if i in fed else staging[i], slot.nbytes, i in fed)),
                )
        return CapturedRun(self._driver, self._gpu_index, graph, stream, *found, pinned, self._early, starts_early)
