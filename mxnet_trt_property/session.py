"""One TensorRT node's life: shapes -> engine -> run, again when weights change, on the next engine when one fails.

Runs inside MXNet's engine threads. No MXNet call that waits may be made there (it would wait for its own thread), so
everything works on the subgraph's JSON text and on views of the arrays' memory (node_arrays.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Optional

from mxnet_trt_property import (
    building,
    calibrating,
    cuda_driver,
    dynamic_shapes,
    freezing,
    native,
    programs,
    refitting,
    settings,
    subgraph,
)
from mxnet_trt_property.cache.keys import Recipe
from mxnet_trt_property.convert import ConvertedModel
from mxnet_trt_property.engines import registry as engines
from mxnet_trt_property.engines.registry import Buffer, Device, Options, Program, ReplayableRunner, Runner, Shapes
from mxnet_trt_property.errors import (
    BuildInterruptedError,
    DeviceMemoryError,
    EngineError,
    brief,
    message,
    next_step_of,
)
from mxnet_trt_property.logs import debug_once, log, tell_engine, warn_once
from mxnet_trt_property.node_arrays import NodeArrays, buffer_of
from mxnet_trt_property.precision import rewriting, tables
from mxnet_trt_property.profiling import Section


class Report(NamedTuple):
    """What a session did, for tests and `demo`.

    Attributes:
        label: The name of its TensorRT node.
        engine: The engine that runs it; empty before the first forward, and after its engine was freed for another.
        nodes: How many operators of MXNet's it holds.
        builds: How many engines were built for it; one that another session had built is not counted.
        forwards: How many forwards went through Python; those that C++ replayed are not counted.
        weight_bytes: Bytes of the weights that lie in arrays of MXNet's, beside the engine's copy.
        frozen_bytes: Bytes of the weights that lie in a file, from where the engine got them; no memory holds them.
        engine_bytes: The size of the engine; 0 where `engine` is empty.
        refits: How many times an engine of it got new weights without being built again.
        loads: How many engines were read from the cache on disk for it.
    """

    label: str
    engine: str
    nodes: int
    builds: int
    forwards: int
    weight_bytes: int
    frozen_bytes: int
    engine_bytes: int
    refits: int
    loads: int


class Session:
    """The state behind one `_TensorRT` operator state of MXNet."""

    def __init__(
        self,
        label: str,
        graph: subgraph.Subgraph,
        frozen: freezing.Restored,
        config: settings.Settings,
        device: Device,
        fitted: Optional[dynamic_shapes.Fitted] = None,
    ) -> None:
        """Chooses the engines; nothing is built before the first forward.

        Args:
            label: What messages call the node.
            graph: The converted subgraph.
            frozen: Which of its variables are inputs of the node, and the values of the others.
            config: The settings.
            device: Where the node's arrays lie.
            fitted: The model that serves these shapes and others, if there is one.

        Raises:
            EngineError: No engine can run arrays of `device` on this machine.
        """
        self.label = label
        self.graph = graph
        self._config = config
        self._device = device
        self._table: Optional[tables.Ranges] = None
        # While int8 waits for its calibration, the engine computes in float32.
        self._first_forwards: Optional[calibrating.FirstForwards] = None
        if config.precision == "int8" and config.calibration_table is not None:
            self._table = tables.load(config.calibration_table)
        elif config.precision == "int8":
            self._first_forwards = calibrating.FirstForwards(graph, config, label)
        self._fitted = fitted
        choice = engines.choose(config.engine, device)
        _announce(choice, config, device)
        self._engines = list(choice.engines)
        if config.on_error == "raise" and config.engine in choice.reasons:
            reason = choice.reasons[config.engine]
            what = f"{label} cannot run on engine {config.engine}"
            raise EngineError(message(what, found=brief(reason), next_step=next_step_of(reason)))
        if not self._engines:
            raise EngineError(
                message(
                    f"No engine can run {label}",
                    found=choice.why_not(),
                    required="one usable engine",
                    next_step="pip install onnxruntime, or see mxnet-trt doctor for the others",
                )
            )
        self.arrays = NodeArrays(graph, frozen, device)
        self.state_id = 0  # of the native state; set once it is known
        self._stable: frozenset[int] = frozenset()
        self._attached: tuple[int, ...] = ()
        self.is_replayed: Optional[bool] = None  # whether C++ got a captured run of the last forward; None: of none yet
        self._digests: dict[int, bytes] = {}
        self._entry: Optional[programs.Entry] = None
        self._shapes: Optional[Shapes] = None  # of the runner, where its program serves others too
        self._runner: Optional[Runner] = None
        # The runner once more, where it can be replayed. Asked once: isinstance() of a protocol imports modules, which
        # fails in an executor that is deleted while the interpreter goes.
        self._replayable: Optional[ReplayableRunner] = None
        self._builds = 0
        self._refits = 0
        self._loads = 0
        self._forwards = 0
        self._changes = 0  # of weights, while an engine was built for them
        self._outdated: Optional[programs.Entry] = None  # what ran the old weights, until there is an engine again
        self.interrupted = False  # whether Ctrl-C stopped the build of the last forward
        self._no_refit = ""  # why no engine of this subgraph can be refitted, once a build has shown it
        self._busy = threading.Lock()  # held by a forward, so that no other takes the engine away meanwhile

    @property
    def report(self) -> Report:
        """What this session did so far."""
        entry = self._entry  # another session may take it away meanwhile
        engine = entry.engine if entry is not None else ""
        size = entry.program.size_bytes if entry is not None else 0
        nodes = len(set(self.graph.model.node_names.values()))
        live, frozen = self.arrays.weight_bytes, self.arrays.frozen_bytes
        counts = (self._refits, self._loads)
        return Report(self.label, engine, nodes, self._builds, self._forwards, live, frozen, size, *counts)

    def forward(self, inputs: Any, outputs: Any, num_outputs: int, stream: int, weights_changed: bool) -> None:
        """Runs the subgraph once.

        Args:
            inputs: MxtrtTensor array of the node's inputs.
            outputs: MxtrtTensor array of its outputs.
            num_outputs: The length of `outputs`.
            stream: MXNet's CUDA stream for arrays on a GPU, else 0.
            weights_changed: Whether the weights may hold new values.

        Raises:
            EngineError: No engine could run the subgraph, or one failed and MXNET_TENSORRT_ON_ERROR is 'raise'.
        """
        with self._busy:
            self._forward(inputs, outputs, num_outputs, stream, weights_changed)

    def _forward(self, inputs: Any, outputs: Any, num_outputs: int, stream: int, weights_changed: bool) -> None:
        self.interrupted = False
        if weights_changed:
            with Section("weights", self.label):
                self._look_at_weights(inputs, stream)
        if self._first_forwards is not None:
            self._calibrate(self._first_forwards, inputs, stream)
        sources = [Buffer(inputs[i].data or 0, shape, dtype) for i, shape, dtype in self.arrays.inputs]
        targets = [buffer_of(outputs[i]) for i in range(num_outputs)]
        while True:
            try:
                if self._runner is None:
                    self._build(inputs, stream)
                assert self._runner is not None
                self._runner.run(sources, targets, stream)
                self._forwards += 1
                self._attach_replays()
                return
            except BuildInterruptedError:
                self.interrupted = True  # nothing failed: the next forward builds
                raise
            except KeyboardInterrupt:  # where MXNet's engine runs forwards on the main thread
                self.interrupted = True
                raise building.interruption(self.label) from None
            except Exception as error:  # noqa: BLE001 - whatever an engine raises, the next one may do it right
                if not self._give_up_range(error):
                    self._give_up_engine(error)

    @property
    def device(self) -> Device:
        """Where the node's arrays lie."""
        return self._device

    @property
    def program(self) -> Optional[Program]:
        """The built engine; None before the first forward."""
        return self._entry.program if self._entry is not None else None

    def keep_in_place(self, addresses: Iterable[int]) -> None:
        """Takes the caller's word that arrays at these addresses stay until `release_arrays`."""
        self._stable = frozenset(addresses)

    def release_arrays(self) -> None:
        """Forgets what works on the caller's arrays in place; call before they are freed, with no forward under way."""
        with self._busy:  # another session may be taking the engine away
            self._stable = frozenset()
            self._detach_replays()
            if self._replayable is not None:
                self._replayable.unpin()

    @property
    def last_use(self) -> int:
        """When its last forward began, by `native.clock`."""
        return native.last_use(self.state_id)

    def let_go(self, entry: programs.Entry) -> bool:
        """Frees the runner of a program that has to go; the next forward looks for a program again.

        Returns:
            Whether it uses the program no longer: it goes on while a forward is under way.
        """
        if not self._busy.acquire(blocking=False):
            return False
        try:
            if self._entry is not entry or self._runner is None:
                return True
            if not native.release_replays(self.state_id):
                return False
            self._attached = ()
            runner, self._entry, self._runner, self._replayable = self._runner, None, None, None
            entry.drop_user(self)
            runner.close()
            return True
        finally:
            self._busy.release()

    def close(self) -> None:
        """Returns the runner to its program."""
        if self._entry is not None and self._runner is not None:
            self._detach_replays()
            if self._replayable is not None:
                self._replayable.unpin()
            self._entry.give_back(self, self._runner, self._shapes)
        self._entry = self._runner = self._replayable = None

    def leave_behind(self) -> object:
        """Forgets the engine without freeing anything, in the child of a fork; returns what must not be freed."""
        self._busy = threading.Lock()  # a thread of the parent may have held it
        left = (self._entry, self._runner, self._replayable, self._outdated)
        self._entry = self._runner = self._replayable = self._outdated = None
        self._attached = ()
        return left

    def _attach_replays(self) -> None:
        """Gives C++ the captured runs, so that the next forwards need no Python.

        Also those that it has had: it forgets them when the driver refuses one.
        """
        if self._first_forwards is not None:
            return
        if self._replayable is not None:
            self._attached = tuple(self._replayable.native_replays(self.arrays.input_positions))
            native.set_replays(self.state_id, self._attached)
        self.is_replayed = bool(self._attached)

    def _detach_replays(self) -> None:
        if self._attached:
            native.set_replays(self.state_id, ())
            self._attached = ()

    def _look_at_weights(self, inputs: Any, stream: int) -> None:
        """Compares the weights with those in the engine, and drops the engine where they differ."""
        found = self.arrays.digests(inputs, stream)
        if found != self._digests:
            if self._entry is not None:
                log.debug("%s: weights have new values", self.label)
                self._changes += 1
                self._outdated = self._entry
            self.close()
            self._digests = found

    @property
    def _options(self) -> Options:
        """The options of the engine that the next forward needs."""
        config = self._config
        kind = "fp32" if self._first_forwards is not None else config.precision
        return Options(precision=kind, workspace_bytes=config.workspace_mb << 20, verbose=config.verbose)

    def _build(self, inputs: Any, stream: int) -> None:
        if self._fitted is None or not self._take_flexible(self._fitted, inputs, stream):
            self._take(self.graph.structure, self.graph.model, None, self._options, inputs, stream)

    def _range_of(self, fitted: dynamic_shapes.Fitted) -> tuple[object, ...]:
        """What a refusal of a range is noted for: no other subgraph, engine or setting."""
        return (fitted.structure, self._engines[0].name, self._options)

    def _take_flexible(self, fitted: dynamic_shapes.Fitted, inputs: Any, stream: int) -> bool:
        """Takes a program that serves a range of shapes; returns whether the engine can have it."""
        engine = self._engines[0]
        place = self._range_of(fitted)
        reason = dynamic_shapes.refusal(place)
        if reason is None and not getattr(engine, "takes_profiles", False):
            reason = "it takes no profiles"
        if reason is None:
            options = dataclasses.replace(self._options, profile=fitted.template.profile)
            try:
                self._take(fitted.structure, fitted.template.model, fitted.shapes, options, inputs, stream)
                return True
            except BuildInterruptedError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it raises, with fixed shapes it may do it right
                reason = str(error) or type(error).__name__
                dynamic_shapes.note_refusal(place, reason)
        dynamic_shapes.tell(self.label, f"engine {engine.name} cannot have one for all of them: {reason}")
        return False

    def _take(
        self,
        structure: str,
        converted: ConvertedModel,
        shapes: Optional[Shapes],
        options: Options,
        inputs: Any,
        stream: int,
    ) -> None:
        """Takes a runner of the program for a model, and builds that if nobody has."""
        engine = self._engines[0]
        kind = options.precision
        wanted = not self._no_refit and refitting.is_wanted(
            self._config.refit, engine, options, self._device, self._changes
        )
        options = dataclasses.replace(options, refittable=wanted)
        ranges = tuple(sorted(self._table.items())) if kind == "int8" and self._table is not None else ()
        key = programs.Key(
            structure,
            self._weight_digests(),
            engine.name,
            engine.version(),
            (kind, self._config.keep_fp32, ranges, options.workspace_bytes, options.profile, options.refittable),
            self._device,
        )

        @functools.lru_cache(maxsize=1)
        def model() -> bytes:
            serialized = self.arrays.serialize(converted, inputs, stream)
            found = rewriting.plan(
                serialized,
                kind,
                self._config.keep_fp32,
                self.label,
                feed=self.arrays.feed(inputs, stream) if kind in ("fp16", "bf16") else None,
                table=self._table,
                keys=converted.value_keys,
                owners=converted.node_names,
            )
            return rewriting.rewrite(
                serialized,
                found,
                self.label,
                has_bfloat16=engines.has_bfloat16(engine),
                no_int8=functools.partial(engines.no_int8, engine),
            )

        made = False
        refitted = self._refit(key, model, options)
        if refitted.entry is not None:
            entry = refitted.entry
            self._refits += 1
        else:
            # Other precisions rewrite the model by what the first inputs are.
            is_recipe = options.precision == "fp32"
            recipe = Recipe(converted.structure_digest, key.weights) if is_recipe else None
            entry, made = programs.get(key, engine, model, options, self._device, self, self._config, recipe)
        self.arrays.drop_pages()
        try:
            ready = any(idle == shapes for idle, _ in list(entry.idle))
            with contextlib.nullcontext() if ready else building.loading(self.label, engine.name):
                self._runner = entry.take_runner(self._device, shapes)
        except Exception:
            programs.discard(entry, self)
            raise
        except BaseException:  # Ctrl-C: nothing is wrong with it
            entry.drop_user(self)
            raise
        self._entry, self._shapes = entry, shapes
        self._replayable = self._runner if isinstance(self._runner, ReplayableRunner) else None
        if self._stable and self._replayable is not None:
            self._replayable.pin(self._stable)
        if made:
            self._builds += not self._entry.loaded
            self._loads += self._entry.loaded
            if wanted:
                self._no_refit = getattr(self._entry.program, "no_refit", "")
        if made or refitted.entry is not None:
            how = "refitted" if refitted.entry is not None else "read from the cache" if self._entry.loaded else "built"
            tell_engine(
                self.label,
                engine.name,
                f"{how} again because {refitted.reason}" if made and refitted.reason else how,
                seconds=self._entry.seconds,
                size_bytes=self._entry.program.size_bytes,
                operators=self.report.nodes,
                precision=kind
                if shapes is None or self._fitted is None
                else f"{kind}, inputs {self._fitted.template.describe()}",
            )

    def _refit(self, key: programs.Key, model: Callable[[], bytes], options: Options) -> refitting.Refitted:
        """Gives the engine that ran the old weights the new ones, if there is one and it can take them."""
        outdated, self._outdated = self._outdated, None
        if outdated is None or outdated.engine != key.engine:
            return refitting.Refitted(None, "")
        why = self._no_refit or refitting.why_not(self._config.refit, self._engines[0], options, self._device)
        return refitting.refit(outdated, key, model, self._device, self, why)

    def _calibrate(self, first: calibrating.FirstForwards, inputs: Any, stream: int) -> None:
        """Collects this forward's ranges, or goes on with int8 where enough are collected."""
        feed = functools.partial(self.arrays.feed, inputs, stream)
        model = functools.partial(self.arrays.serialize, self.graph.model, inputs, stream)
        self._table = first.take(self._weight_digests(), model, feed)
        if self._table is not None:
            self._first_forwards = None
            self.close()
            log.info("%s: calibrated on %d forwards (%s); it goes on in int8", self.label, first.wanted, first.method)

    def calibrated_ranges(self) -> dict[str, tuple[float, float]]:
        """Returns the ranges that the forwards so far have shown, by the keys of a calibration table."""
        first = self._first_forwards
        return first.ranges(self._weight_digests()) if first is not None and self._forwards else {}

    def _weight_digests(self) -> tuple[bytes, ...]:
        return self.arrays.ordered(self._digests)

    def _give_up_range(self, error: Exception) -> bool:
        """Goes on with a program of fixed shapes on the same engine where one for a range failed; returns whether."""
        if (
            self._fitted is None
            or self._shapes is None
            or isinstance(error, (cuda_driver.CudaError, DeviceMemoryError))
        ):
            return False  # a GPU that fails, or is full, says nothing of ranges
        reason = str(error) or type(error).__name__
        dynamic_shapes.note_refusal(self._range_of(self._fitted), reason)
        self._drop_engine()
        return True

    def _drop_engine(self) -> None:
        """Forgets an engine that failed; its runner is not given back."""
        self._detach_replays()
        if self._entry is not None:
            programs.discard(self._entry, self)
        self._entry = self._shapes = self._runner = self._replayable = None

    def _give_up_engine(self, error: Exception) -> None:
        """Goes on to the next engine, or raises the error where there is none or the user wants to see it."""
        failed = self._engines[0]
        ask_again = getattr(failed, "ask_again", None)
        if ask_again is not None:
            ask_again(self._device)
        self._drop_engine()
        if self._config.on_error == "raise" or len(self._engines) == 1:
            raise EngineError(
                message(
                    f"{self.label} failed on engine {failed.name}",
                    found=str(error) or type(error).__name__,
                    next_step="set MXNET_TENSORRT_EXCLUDE_NODES or MXNET_TENSORRT_EXCLUDE_OPS to leave the nodes to "
                    "MXNet, MXNET_TENSORRT_ENGINE to another engine, or unset MXNET_SUBGRAPH_BACKEND",
                )
            ) from error
        self._engines.pop(0)
        warn_once(
            f"{self.label} failed on engine {failed.name}; it goes on with {self._engines[0].name}",
            found=str(error) or type(error).__name__,
            next_step=f"set MXNET_TENSORRT_ENGINE={self._engines[0].name} to skip the failing engine, or "
            "MXNET_TENSORRT_ON_ERROR=raise to stop at the first failure",
            error=error,
        )


def _announce(choice: engines.Choice, config: settings.Settings, device: Device) -> None:
    """Tells once of a named engine that cannot be had; with "auto", only who asks for DEBUG wants to know."""
    chosen = choice.engines[0].name if choice.engines else "none"
    if config.engine == "auto":
        reasons = "".join(f"; not {name}: {reason}" for name, reason in choice.reasons.items())
        debug_once(f"engine for arrays on {device.kind}({device.index}): {chosen}{reasons}")
    elif config.engine != chosen:
        warn_once(
            f"Engine {config.engine} cannot run arrays on {device.kind}({device.index}); {chosen} does",
            found=choice.reasons[config.engine],
            next_step="mxnet-trt doctor tells what it needs; MXNET_TENSORRT_ENGINE=auto takes the best that there is",
        )
