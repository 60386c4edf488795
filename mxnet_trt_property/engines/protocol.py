"""What an engine offers: devices, arrays and options that it is given, and the programs and runners that it makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Protocol, runtime_checkable

import numpy as np

from mxnet_trt_property.errors import EngineError


class RefitError(EngineError):
    """A built engine could not be given new weights, or could not be built so that it can."""


@dataclass(frozen=True)
class Device:
    """Where MXNet's arrays lie: kind "cpu" or "gpu", and MXNet's device id.

    `gpu_index` is the CUDA device that a GPU engine uses: the array's own for "gpu", the one of
    MXNET_TENSORRT_DEVICE for "cpu".
    """

    kind: str
    index: int
    gpu_index: int = 0


Profile = tuple[tuple[tuple[int, ...], ...], ...]
"""For each input of a model its smallest shape, the one to tune for, and its largest."""


class Shapes(NamedTuple):
    """The shapes of a model's inputs and outputs, in the model's order."""

    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]


class Buffer(NamedTuple):
    """A dense array of MXNet's: its address in host memory (kind "cpu") or device memory ("gpu")."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Options:
    """What a build depends on besides the model.

    Attributes:
        precision: "fp32", "fp16", "bf16" or "int8".
        workspace_bytes: The most scratch memory a TensorRT engine may use; 0 leaves it to TensorRT.
        verbose: Whether the engine's own messages are logged.
        profile: For each input of the model its smallest shape, the one to tune for, and its largest; empty for a
            model whose shapes are fixed. Only given to engines that have `takes_profiles`.
        refittable: Whether the weights of the engine are likely to change (MXNET_TENSORRT_REFIT): an engine that can
            then makes a `RefittableProgram`, and one that cannot ignores it.
        layer_times: Whether the program will be asked for its layers' times (engines/layers.py).
    """

    precision: str = "fp32"
    workspace_bytes: int = 0
    verbose: bool = False
    profile: Profile = ()
    refittable: bool = False
    layer_times: bool = False


class Runner(Protocol):
    """One user's right to run a program: owns the state that two threads must not share."""

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], stream: int) -> None:
        """Reads `inputs`, writes `outputs`, in the order of the model's inputs and outputs.

        With "cpu" buffers the outputs are written when the call returns. With "gpu" buffers the work is
        queued on `stream` (a CUstream as an integer). A buffer may have another shape than the model's
        tensor if it has as many elements of the same type.

        Raises:
            EngineError: The engine failed, the buffers do not fit the model, or the runner is closed.
        """

    def close(self) -> None:
        """Frees what the runner owns; happens by itself when the runner is collected. May be repeated."""


@runtime_checkable
class ReplayableRunner(Runner, Protocol):
    """A runner that captures its runs, so that C++ can replay them without Python."""

    def native_replays(self, input_positions: Sequence[int]) -> list[int]:
        """Returns handles of captured runs, best first; see cpp/bridge.h.

        Args:
            input_positions: For each input of the model the position of its array among those that C++ gets.
        """

    def pin(self, addresses: Iterable[int]) -> None:
        """Takes the caller's word that arrays at these addresses stay until `unpin`."""

    def unpin(self) -> None:
        """Forgets captured runs that work on such arrays; no replay may be under way."""


class Program(Protocol):
    """A built engine with its weights, shared by all who run the same subgraph with them."""

    size_bytes: int

    def runner(self, device: Device) -> Runner:
        """Returns a new runner for arrays on `device`; several may run at once, each on its own thread.

        Raises:
            EngineError: The engine cannot be loaded on that device.
        """

    def close(self) -> None:
        """Frees what the program owns; runners that exist keep working. May be repeated."""

    # It may also have a method `layer_times`: engines/layers.py.


class FlexibleProgram(Program, Protocol):
    """A program that was built for a range of shapes."""

    def runner_for(self, device: Device, shapes: Shapes) -> Runner:
        """Returns a new runner for arrays of these shapes, which lie in the profile; see `Program.runner`."""


@runtime_checkable
class RefittableProgram(Program, Protocol):
    """A program that may be able to take new weights.

    Attributes:
        no_refit: Why it cannot, or "".
    """

    no_refit: str

    def misfit(self, model: bytes) -> str:
        """Returns why the program cannot take the weights of the serialized ONNX `model`, or ""."""

    def refit(self, model: bytes, runners: Sequence[Runner]) -> None:
        """Gives the program the weights of `model` in place.

        Args:
            model: A model that `misfit` has nothing against.
            runners: All runners of the program; none is running. They keep their memory and forget captured runs.

        Raises:
            RefitError: It failed; program and runners must not be run any more.
        """

    def refitted_copy(self, model: bytes, device: Device) -> Program:
        """Returns another program with the weights of `model`; this one stays as it is.

        Raises:
            EngineError: The copy cannot be loaded or refitted.
        """


class Engine(Protocol):
    """An accelerator library that builds ONNX models.

    What it may have besides (docs/engines.md tells all of it at length):

    * `refused_nodes(model: bytes) -> Mapping[str, str]`, asked before nodes are claimed: the nodes of a serialized ONNX
      model that it will not build, by name, with a reason each. There, weights are inputs or zeros.
    * `why_no_refit(options: Options, device: Device) -> str`: why engines built with these options for that device
      cannot take new weights, or "". One without it cannot.
    * `ask_again(device: Device) -> None`, called when one of its programs failed on a device: what it remembers of
      `unusable` may not be true any more.
    * `leave_behind() -> object`, called in the child of a fork: it forgets what cannot be used there, and returns what
      must not be freed either.
    * `runs_on: str`, "cpu" or "gpu" (taken where it says nothing): where it computes, whatever the arrays.
    * `takes_profiles: bool`, true where it builds models with axes of unknown size (dim_param) when `Options.profile`
      is given, and its programs have `runner_for`.
    * `has_bfloat16: bool`, true if it builds models with bfloat16 inside; for all others precision bf16 is written as
      float32 between values that are rounded.
    * `no_int8() -> Collection[str]`: the ONNX operators that it does not build in int8, which then stay in float32.
    * `tolerance: float`, the largest relative error ||a - b|| / ||b|| against MXNet that is right for a network in
      fp32; 1e-5 where it says nothing.
    """

    name: str

    def version(self) -> str:
        """Returns the library's version, or "" where it is not installed."""

    def unusable(self, device: Device) -> Optional[str]:
        """Returns why this engine cannot run arrays of `device` on this machine, or None.

        The reason ends with what to do about it.
        """

    def build(self, model: bytes, options: Options, device: Device, label: str) -> Program:
        """Builds the serialized ONNX `model`; `label` names the subgraph in messages.

        Raises:
            EngineError: The parser refused a node or the build failed, in the library's own words.
        """
