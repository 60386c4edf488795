"""Running a TensorRT engine: execution contexts, buffers, copies.

A run has three parts, so that the middle one can be captured in a CUDA graph and replayed without Python:

    prepare(inputs, outputs)   checks the arrays and gives their addresses to the execution context
    enqueue(stream)            queues copies and the engine on a stream; same addresses every time, no waiting
    run                        prepare, stage in, enqueue, and for arrays in host memory: wait, stage out

After the first run of a set of arrays `enqueue` is captured (trt_graph.py); later runs replay the graph, from here or
from C++ (`native_replays`).

"cpu" arrays go through pinned memory and device memory that the runner owns. "gpu" arrays are read and written in
place; one that is not aligned as TensorRT demands (a slice) goes through device memory of the runner's.

Limits: TensorRT has no float64, and its parser silently turns such a model into float32; that is caught by
comparing element types in `prepare()`. int8, int32, int64, uint8 and bool arrays have the same layout on both sides.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
import weakref
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional

from mxnet_trt_property import forks
from mxnet_trt_property.cuda_driver import CudaError
from mxnet_trt_property.engines import trt_graph, trt_profile
from mxnet_trt_property.engines.layers import LayerTimes
from mxnet_trt_property.engines.registry import Buffer, Shapes, check_buffer, check_count, with_shapes
from mxnet_trt_property.engines.trt_build import TensorSpec
from mxnet_trt_property.engines.trt_packing import Kernels
from mxnet_trt_property.errors import EngineError, message
from mxnet_trt_property.profiling import Section

if TYPE_CHECKING:
    from mxnet_trt_property.engines.trt_program import LoadedEngine

ALIGNMENT = 256  # of addresses given to TensorRT, in bytes
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int32": 4, "int64": 8, "bool": 1, "uint8": 1}


@dataclass
class Slot:
    """One tensor of a runner: where the caller's array is, and what the engine uses in its place.

    Attributes:
        spec: The tensor.
        is_input: Whether the engine reads it.
        bound: Whether the engine has this tensor (it drops an input that nothing reads).
        nbytes: Its size.
        array: The caller's array: a host address ("cpu") or a device address ("gpu").
        pinned: The runner's pinned host memory, or 0.
        own: The runner's device memory, or 0.
        given: The device address that the execution context has, or 0.
    """

    spec: TensorSpec
    is_input: bool
    bound: bool
    nbytes: int
    array: int = 0
    pinned: int = 0
    own: int = 0
    given: int = 0


class _Resources:
    """What a runner must give back: freed once, in the right context, also at interpreter exit."""

    def __init__(self, engine: LoadedEngine) -> None:
        self.lock = threading.Lock()  # held by a run, so that closing waits for it
        self.driver = engine.driver
        self.gpu_index = engine.gpu_index
        self.context: Optional[Any] = None
        self.kernels: Optional[Kernels] = None  # must outlive the context
        self.stream = 0
        self.captures = trt_graph.Captures(engine.driver, engine.gpu_index, engine.label)
        self.device_memory: list[int] = []
        self.pinned_memory: list[int] = []

    def close(self) -> None:
        if trt_graph.CAPTURE_LOCK.defer(self.close):
            return
        if self.driver.lost(self.gpu_index) is not None:
            forks.never_free((self.context, self.kernels, self.captures))  # as in LoadedEngine.close
            self.context = self.kernels = None
            return
        # A driver that is gone, as at the very end of a process, has freed everything itself.
        with self.lock, contextlib.suppress(CudaError), self.driver.on_device(self.gpu_index):
            # A failed kernel must not keep the rest from being freed.
            with contextlib.suppress(CudaError), trt_graph.CAPTURE_LOCK:
                # All streams of the device: the last run may be under way on a caller's stream, and that stream
                # may have been destroyed since, so it cannot be asked.
                self.driver.synchronize_device()
            with contextlib.suppress(CudaError):
                self.captures.close()
            self.context = self.kernels = None
            for free, addresses in (
                (self.driver.free, self.device_memory),
                (self.driver.host_free, self.pinned_memory),
            ):
                while addresses:
                    address = addresses.pop()
                    with contextlib.suppress(CudaError):
                        free(address)
            if self.stream:
                stream, self.stream = self.stream, 0
                self.driver.stream_destroy(stream)


class TensorRTRunner:
    """An execution context with its stream and buffers; one thread at a time runs it.

    Attributes:
        slots: The tensors in the order of the model's inputs, then outputs.
    """

    def __init__(self, engine: LoadedEngine, host_arrays: bool, shapes: Optional[Shapes] = None) -> None:
        self._engine = engine
        self._driver = engine.driver
        self._host_arrays = host_arrays
        self._resources = _Resources(engine)
        self._finalizer = weakref.finalize(self, self._resources.close)
        self._prepared: Optional[tuple[Any, Any]] = None
        self.profiler: Optional[Any] = None  # of TensorRT's, if it times layers
        inputs, outputs = list(engine.inputs), list(engine.outputs)
        if shapes is not None:
            inputs = with_shapes(engine.label, inputs, shapes.inputs)
            outputs = with_shapes(engine.label, outputs, shapes.outputs)
        self._is_flexible = shapes is not None
        self._has_new_kernels = self._is_flexible  # those for its shapes may be compiled at its first run only
        self.slots = [self._slot(spec, True) for spec in inputs]
        self.slots += [self._slot(spec, False) for spec in outputs]
        try:
            with self._driver.on_device(engine.gpu_index):
                self._allocate()
        except BaseException:
            self.close()
            raise

    def _slot(self, spec: TensorSpec, is_input: bool) -> Slot:
        return Slot(spec, is_input, spec.name in self._engine.bound, math.prod(spec.shape) * ITEM_BYTES[spec.dtype])

    def _allocate(self) -> None:
        resources, engine = self._resources, self._engine
        what = f"{engine.library.full_name} cannot make an execution context for {engine.label}"
        bound = [slot for slot in self.slots if slot.bound]
        shapes = {slot.spec.name: slot.spec.shape for slot in bound if slot.is_input} if self._is_flexible else None
        kernels = resources.kernels = engine.kernels
        config = None if kernels is None else kernels.config()
        resources.context = engine.library.context(engine.engine, what, config, shapes)
        del config  # before the engine, which it refers to
        if self._is_flexible:
            with trt_graph.CAPTURE_LOCK:
                self._driver.synchronize_device()  # a change of the profile may be queued
        if kernels is not None:
            kernels.keep()
        for slot in bound if self._is_flexible else ():
            found = tuple(int(size) for size in resources.context.get_tensor_shape(slot.spec.name))
            if found != slot.spec.shape:
                required = f"{slot.spec.shape}, which MXNet infers"
                raise EngineError(
                    message(f"{what}: tensor '{slot.spec.name}' has another shape", found=str(found), required=required)
                )
        if not self._host_arrays:
            return
        resources.stream = self._driver.stream_create()
        for slot in self.slots:
            if not slot.bound:
                continue
            self._own(slot)
            self._give(slot, slot.own)
            if slot.nbytes:
                slot.pinned = self._driver.host_alloc(slot.nbytes)
                resources.pinned_memory.append(slot.pinned)

    def _own(self, slot: Slot) -> int:
        """Returns device memory of the runner's for `slot`; an empty tensor gets some too, as null is refused."""
        if not slot.own:
            slot.own = self._driver.malloc(max(slot.nbytes, ALIGNMENT))
            self._resources.device_memory.append(slot.own)
        return slot.own

    def _give(self, slot: Slot, address: int) -> None:
        """Tells the execution context where a tensor is."""
        if slot.given == address:
            return
        context = self._resources.context
        mark = self._engine.library.mark()
        if context is None or not context.set_tensor_address(slot.spec.name, address):
            found = self._engine.library.words(mark)
            raise EngineError(message(f"{self._engine.label}: no address for tensor '{slot.spec.name}'", found=found))
        slot.given = address

    @property
    def stream(self) -> int:
        """The runner's own stream, on which arrays in host memory are copied and computed; 0 for "gpu" arrays."""
        return self._resources.stream

    def prepare(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        """Checks the arrays and gives their addresses to the execution context; cheap if they are the last ones.

        Raises:
            EngineError: The arrays do not fit the engine.
        """
        arrays = (tuple(inputs), tuple(outputs))
        if arrays == self._prepared:
            return
        self._prepared = None
        engine = self._engine
        check_count("inputs", engine.label, len(inputs), len(engine.inputs))
        check_count("outputs", engine.label, len(outputs), len(engine.outputs))
        for slot, buffer in zip(self.slots, (*inputs, *outputs)):
            check_buffer(engine.label, slot.spec.name, buffer, slot.spec.shape, slot.spec.dtype)
            slot.array = buffer.address
            if slot.bound and not self._host_arrays:
                in_place = slot.nbytes > 0 and slot.array % ALIGNMENT == 0
                self._give(slot, slot.array if in_place else self._own(slot))
        self._prepared = arrays

    @property
    def kernels_overlap_wrongly(self) -> bool:
        """Whether captured kernels must be kept from starting before the one in front of them has ended."""
        return self._engine.kernels_overlap_wrongly

    @property
    def host_arrays(self) -> bool:
        """Whether the arrays lie in host memory."""
        return self._host_arrays

    def native_replays(self, input_positions: Sequence[int]) -> list[int]:
        """Returns handles of captured runs for C++ to replay, best first; empty before the first run.

        Args:
            input_positions: For each input of the model the position of its array among those that C++ gets.
        """
        with self._resources.lock:
            return [c.handle(input_positions) for c in self._resources.captures.runs]

    def pin(self, addresses: Iterable[int]) -> None:
        """Takes the caller's word that arrays at these addresses stay until `unpin`."""
        with self._resources.lock, self._driver.on_device(self._engine.gpu_index):
            self._resources.captures.set_stable(addresses)

    def unpin(self) -> None:
        """Forgets captured runs that work on arrays in place; call before such an array is freed."""
        self.pin(())

    def forget_captures(self) -> None:
        """Frees the captured runs; the next run is captured anew. The device must be current and nothing under way.

        TensorRT says that execution contexts stay valid in a refit, and nothing of graphs captured before.
        """
        with self._resources.lock:
            self._resources.captures.close()

    def bare(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], stream: int = 0) -> Callable[[], None]:
        """Returns a function that replays the run on these arrays and does nothing else; `run` them once before.

        Raises:
            EngineError: The run was not captured.
        """
        with self._resources.lock:
            replay = self._resources.captures.replayer(inputs, outputs, stream)
        if replay is None:
            raise EngineError(message(f"{self._engine.label} has no captured run", next_step="call run() first"))
        return replay

    def use_own_memory(self, inputs: bool = True) -> None:
        """Gives the execution context device memory of the runner's for the outputs, until the next `prepare()`.

        Args:
            inputs: Whether the inputs get such memory as well.
        """
        for slot in self.slots:
            if slot.bound and (inputs or not slot.is_input):
                self._give(slot, self._own(slot))
        self._prepared = None

    def enqueue(self, stream: int) -> None:
        """Queues one inference on `stream`: copies in, the engine, copies out.

        Waits for nothing and uses the same addresses until the next `prepare()` with other arrays, so that it
        can be captured. The device must be current.

        Raises:
            EngineError: The library or the driver refused.
        """
        self.enqueue_parts(stream, copies_in=True, copies_out=True)

    def enqueue_parts(self, stream: int, copies_in: bool, copies_out: bool, fed: Collection[int] = frozenset()) -> None:
        """Does what `enqueue` does, without the copies where they are not wanted.

        Args:
            stream: The stream.
            copies_in: Whether inputs are copied to where the engine reads them.
            copies_out: Whether outputs are copied from where it writes them.
            fed: The slots of inputs that are copied otherwise.
        """
        if copies_in:
            self.copy_in(stream, fed)
        context, library = self._resources.context, self._engine.library
        mark = library.mark()
        if context is None or not context.execute_async_v3(stream):
            raise EngineError(
                message(
                    f"{library.full_name} cannot run {self._engine.label}",
                    found=library.words(mark),
                    next_step="set MXNET_TENSORRT_ENGINE=onnxruntime to run without TensorRT",
                )
            )
        if copies_out:
            self.copy_out(stream)

    def copy_in(self, stream: int, fed: Collection[int] = frozenset()) -> None:
        """Queues the copies of the inputs to where the engine reads them, but for the slots of `fed`."""
        for i, slot in enumerate(self.slots):
            if slot.is_input and slot.own and slot.nbytes and i not in fed:
                if self._host_arrays:
                    self._driver.copy_to_device(slot.own, slot.pinned, slot.nbytes, stream)
                elif slot.given == slot.own:
                    self._driver.copy_on_device(slot.own, slot.array, slot.nbytes, stream)

    def copy_out(self, stream: int) -> None:
        """Queues the copies of the outputs from where the engine writes them."""
        for slot in self.slots:
            if not slot.is_input and slot.own and slot.nbytes:
                if self._host_arrays:
                    self._driver.copy_to_host(slot.pinned, slot.own, slot.nbytes, stream)
                elif slot.given == slot.own:
                    self._driver.copy_on_device(slot.array, slot.own, slot.nbytes, stream)

    def layer_times(self, whole_ms: float, runs: int) -> LayerTimes:
        """Times layers and copies; see `trt_profile.layer_times`. The runner is for nothing else afterwards."""
        with self._resources.lock, self._driver.on_device(self._engine.gpu_index):
            engine = self._engine
            return trt_profile.layer_times(
                engine.library, self._driver, self, self._resources.context, engine.engine, whole_ms, runs
            )

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], stream: int) -> None:
        """Runs the engine; see `Runner.run`. The current context of the calling thread is left as it was.

        Raises:
            EngineError: The engine failed, the arrays do not fit, or the runner is closed.
        """
        with self._resources.lock:
            if not self._finalizer.alive:
                raise EngineError(message(f"The {self._engine.library.title} runner of {self._engine.label} is closed"))
            replay = self._resources.captures.replayer(inputs, outputs, stream)
            if replay is not None:
                replay()
                return
            with self._driver.on_device(self._engine.gpu_index):
                self.prepare(inputs, outputs)
                self._queue(stream)
                self._resources.captures.capture(self)
                if self._has_new_kernels and self._resources.kernels is not None:
                    self._has_new_kernels = False
                    self._resources.kernels.keep()
                # The result of the graph counts, here already, so that no forward differs from the next.
                replay = self._resources.captures.replayer(inputs, outputs, stream)
                if replay is not None:
                    replay()
                elif self.kernels_overlap_wrongly:
                    raise EngineError(
                        message(
                            f"{self._engine.library.full_name} cannot be relied on to run {self._engine.label}",
                            found="a run that cannot be captured, on a GPU where only captured runs are right",
                            next_step="set MXNET_TENSORRT_ENGINE=onnxruntime",
                        )
                    )

    def _queue(self, stream: int) -> None:
        """Queues one run anew, as the first run and one that cannot be captured are."""
        if not self._host_arrays:
            self.enqueue(stream)
            return
        label = self._engine.label
        with Section("copy in", label):
            for slot in self.slots:
                if slot.is_input and slot.pinned:
                    ctypes.memmove(slot.pinned, slot.array, slot.nbytes)
            self.copy_in(self.stream)
        with Section("run", label):
            self.enqueue_parts(self.stream, copies_in=False, copies_out=False)
            self._driver.synchronize(self.stream)
        with Section("copy out", label):
            self.copy_out(self.stream)
            self._driver.synchronize(self.stream)
            for slot in self.slots:
                if not slot.is_input and slot.pinned:
                    ctypes.memmove(slot.array, slot.pinned, slot.nbytes)

    def close(self) -> None:
        """Waits for a run under way, then frees context, stream and memory."""
        self._finalizer()
