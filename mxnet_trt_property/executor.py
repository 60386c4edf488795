"""Executors whose graph has TensorRT nodes: they look like stock ones, and MXNet can always take over."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

import mxnet as mx
import numpy as np
from mxnet.base import MXNetError
from mxnet.executor import Executor

from mxnet_trt_property import backend, session, settings
from mxnet_trt_property.early_start import EarlyStart, address_of, early_start
from mxnet_trt_property.logs import warn_of_fallback, warn_once
from mxnet_trt_property.spinning import awaited


@dataclass
class Attachment:
    """What an executor with TensorRT nodes carries besides MXNet's own fields.

    Attributes:
        made: The partitioned symbol, and which nodes were taken and why the others were not.
        make_stock: Binds the original symbol to the same arrays without TensorRT.
        twin: The executor that `make_stock` made, once it was needed.
        use_twin: Whether every forward goes to the twin: TensorRT nodes failed, or a monitor wants to see all nodes.
        checked: Whether the first forward is behind, and so is a fallback.
        sessions: The sessions of the executor's TensorRT nodes.
        early: Starts the captured run of a graph that is one TensorRT node before MXNet's thread gets to it. None where
            that cannot be.
    """

    made: backend.Partitioned
    make_stock: Callable[[Any], Any]
    twin: Any = None
    use_twin: bool = False
    checked: bool = False
    sessions: list[session.Session] = field(default_factory=list)
    early: Optional[EarlyStart] = None


class TensorRTExecutor(Executor):  # type: ignore[misc]  # mxnet has no types
    """An executor whose graph has TensorRT nodes. Arrays and outputs have the names and order of the stock one."""

    tensorrt: Attachment

    def forward(self, is_train: bool = False, **kwargs: Any) -> Any:
        """Runs the graph, as Executor.forward does.

        With `is_train` the stock graph runs on the same arrays: Dropout, BatchNorm and others act differently in
        training, and an engine holds inference only.
        """
        state = self.tensorrt
        if is_train:
            warn_once(
                "forward(is_train=True) runs on MXNet: TensorRT nodes are for inference",
                next_step="pass is_train=False for inference; to train, bind with a grad_req, or unset "
                "MXNET_SUBGRAPH_BACKEND",
            )
        if is_train or state.use_twin:
            return self._forward_twin(is_train, kwargs)
        if kwargs:
            self._check(kwargs)
        early = state.early
        if early is not None and state.sessions[0].is_replayed is False:
            early = state.early = None  # nothing to start: an engine on the CPU, or one that cannot be captured
        if early is None:
            self._assign(kwargs)
            return self._run(is_train)
        try:
            written = early.write(kwargs) if kwargs else ()
            left = {name: array for name, array in kwargs.items() if name not in written} if written else kwargs
            self._assign(left)
            early.start(left)
            return self._run(is_train)
        except BaseException:
            # Ctrl-C may come in between. A run that was started must not be taken for that of a later forward.
            early.cancel()
            raise

    def _get_outputs(self) -> list[Any]:
        """Returns new handles of the outputs, as MXNet's executor makes them at each forward."""
        outputs = super()._get_outputs()
        early = self.tensorrt.early
        return outputs if early is None else [awaited(output, early.spin) for output in outputs]

    def _run(self, is_train: bool) -> Any:
        """Runs the graph on its arrays; the first time MXNet takes over where TensorRT fails."""
        state = self.tensorrt
        if state.checked:
            return super().forward(is_train=False)
        try:
            outputs = super().forward(is_train=False)
            if settings.value("ON_ERROR") == "fallback":
                # Only this once: whether the engines could be had shows here, and MXNet can still take over.
                for output in outputs:
                    output.wait_to_read()
        except MXNetError as error:
            interrupted = any(member.interrupted for member in state.sessions)
            if interrupted and threading.current_thread() is threading.main_thread():
                if os.environ.get("MXNET_ENGINE_TYPE") == "NaiveEngine":
                    warn_once(
                        "Ctrl-C stopped a forward of MXNet's NaiveEngine, which cannot run that graph again after any "
                        "error: the executor goes on with MXNet",
                        next_step="bind again for TensorRT, or unset MXNET_ENGINE_TYPE",
                    )
                    state.use_twin = True
                raise KeyboardInterrupt from error
            if interrupted or settings.value("ON_ERROR") != "fallback":
                raise
            warn_of_fallback("The TensorRT nodes of an executor failed; it goes on with MXNet", error)
            state.use_twin = True
            return self._forward_twin(is_train, {})
        state.checked = True
        return outputs

    def _check(self, arrays: Mapping[str, Any]) -> None:
        """Raises what Executor.forward raises of keyword arguments that are not arrays for the graph's arguments."""
        arguments = self.arg_dict
        for name, array in arrays.items():
            if not isinstance(array, (mx.nd.NDArray, np.ndarray)):
                raise ValueError("only accept keyword argument of NDArrays and numpy.ndarray")
            if name not in arguments:
                raise TypeError(f"Unknown argument {name}")
            if arguments[name].shape != array.shape:
                raise ValueError(
                    f"Shape not match! Argument {name}, need: {arguments[name].shape}, received: {array.shape}"
                )

    def _assign(self, arrays: Mapping[str, Any]) -> None:
        """Writes arrays into arguments as Executor.forward does with its keyword arguments."""
        arguments = self.arg_dict
        for name, array in arrays.items():
            if isinstance(array, mx.nd.NDArray) and array.handle is not arguments[name].handle:
                array.copyto(arguments[name])  # what the assignment below comes down to, without parsing an index
            else:
                arguments[name][:] = array

    def backward(self, out_grads: Any = None, is_train: bool = True) -> None:
        """Runs the backward pass of the stock graph after forward(is_train=True)."""
        if self.tensorrt.twin is not None:
            self.tensorrt.twin.backward(out_grads, is_train)
        else:
            super().backward(out_grads, is_train)

    def _forward_twin(self, is_train: bool, kwargs: Mapping[str, Any]) -> Any:
        outputs = self._get_twin().forward(is_train=is_train, **kwargs)
        # Outputs are the same arrays as long as a stock executor lives, and programs keep them.
        for source, target in zip(outputs, self.outputs):
            source.copyto(target)
        return self.outputs

    def _get_twin(self) -> Any:
        state = self.tensorrt
        if state.twin is None:
            state.twin = state.make_stock(self)
        return state.twin

    def __del__(self) -> None:
        """Waits for the forward under way and lets go of the arrays' memory before MXNet frees the executor."""
        state = getattr(self, "tensorrt", None)
        if state is not None and state.sessions:
            # Handles of our own: where the collector frees a cycle, it may have freed the arrays of `outputs` already.
            for output in self._get_outputs():
                try:
                    output.wait_to_read()
                except MXNetError as error:
                    # MXNet tells an error once: whoever read the outputs has had it, and it does not show here.
                    warn_once(
                        "An executor was deleted whose last forward had failed; its outputs hold no result",
                        found=str(error),
                        next_step="read the outputs before the executor goes, to have the error raised there",
                    )
            for member in state.sessions:
                member.release_arrays()
        super().__del__()

    def set_monitor_callback(self, callback: Any, monitor_all: bool = False) -> None:
        """Installs a callback for the output of each node, as Executor.set_monitor_callback does.

        An engine shows nothing of what is inside. So MXNet runs the graph from now on, until the executor is deleted:
        it has no way to take a monitor away either.
        """
        warn_once(
            "a monitor is installed: MXNet runs the executor's graph, for TensorRT shows no node inside its own",
            next_step="bind again without the monitor to run on TensorRT; `mxnet-trt profile` times the layers inside",
        )
        self._get_twin().set_monitor_callback(callback, monitor_all)
        self.tensorrt.use_twin = True

    def pass_monitor_to(self, new: Executor) -> None:
        """Installs this executor's monitor, if it has one, in the executor that reshape made of it."""
        monitored = self.tensorrt.twin
        if monitored is None or monitored._monitor_callback is None:
            return
        target = new
        if isinstance(new, TensorRTExecutor):
            target = new._get_twin()
            new.tensorrt.use_twin = True
        # Kept as it is: wrapped once more, it would be freed with this executor.
        target._monitor_callback, target._monitor_all = monitored._monitor_callback, monitored._monitor_all
        install = mx.base._LIB.MXExecutorSetMonitorCallbackEX
        mx.base.check_call(install(target.handle, target._monitor_callback, None, int(bool(target._monitor_all))))


def attach(
    executor: Any,
    symbol: Any,
    made: backend.Partitioned,
    make_stock: Callable[[Any], Any],
    sessions: list[session.Session],
) -> Any:
    """Makes an executor of the partitioned symbol look like one of the original."""
    arguments = backend.permutation(symbol.list_arguments(), made.symbol.list_arguments())
    auxiliary = backend.permutation(symbol.list_auxiliary_states(), made.symbol.list_auxiliary_states())
    executor.arg_arrays = [executor.arg_arrays[i] for i in arguments]
    executor.grad_arrays = [executor.grad_arrays[i] for i in arguments] if executor.grad_arrays else []
    executor.aux_arrays = [executor.aux_arrays[i] for i in auxiliary]
    executor._symbol = symbol.__copy__()
    executor._arg_dict = executor._grad_dict = executor._aux_dict = executor._output_dict = None
    executor.__class__ = TensorRTExecutor
    executor.tensorrt = Attachment(made, make_stock, sessions=sessions)
    # The executor keeps these arrays until it is deleted, and then releases them first.
    held = (*executor.arg_arrays, *executor.aux_arrays, *executor.outputs)
    addresses = {address_of(array) for array in held} - {0}
    for member in sessions:
        member.keep_in_place(addresses)
    if len(sessions) == 1:
        executor.tensorrt.early = early_start(executor, sessions[0])
    return executor
