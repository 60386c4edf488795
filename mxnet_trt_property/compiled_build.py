"""Builds a compiled model's engine, on the next engine where one fails."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from typing import Optional

from mxnet_trt_property import building, settings
from mxnet_trt_property.cache import build
from mxnet_trt_property.compiled_seats import Seat
from mxnet_trt_property.engines import registry as engines
from mxnet_trt_property.engines.registry import Device, Options, Profile, Program, Shapes
from mxnet_trt_property.errors import BuildInterruptedError, EngineError, message, next_step_of
from mxnet_trt_property.logs import tell_engine, warn_once
from mxnet_trt_property.precision.plans import Plan

LABEL = "the compiled model"


def build_first(
    onnx: bytes, plan: Plan, config: settings.Settings, prefer: str, profile: Profile, shapes: Optional[Shapes]
) -> tuple[Program, str, Seat]:
    """Returns the program, the name of its engine, and a first seat: whether an engine works shows there.

    Args:
        onnx: The serialized model, in float32.
        plan: What the precision makes of it.
        config: The settings.
        prefer: The engine to take if the settings name none; "" for the first usable one.
        profile: The range of shapes, or an empty one.
        shapes: Those of the first seat, where there is a range.

    Raises:
        EngineError: No engine can build or run it.
    """
    device = Device("cpu", 0, config.device)
    named = config.engine != "auto"
    choice = engines.choose(config.engine if named else prefer or "auto", device)
    usable = [e for e in choice.engines if not named or e.name == config.engine]
    if not usable:
        raise EngineError(
            message(
                f"{LABEL} cannot be built" + (f" on engine {config.engine}" if named else ": no engine is usable"),
                found=choice.why_not(config.engine if named else None),
                next_step=(next_step_of(choice.reasons[config.engine]) or "choose another engine")
                if named
                else "pip install onnxruntime, or see mxnet-trt doctor for the others",
            )
        )
    options = Options(
        precision=config.precision, workspace_bytes=config.workspace_mb << 20, verbose=config.verbose, profile=profile
    )
    for engine, following in zip(usable, [*usable[1:], None]):
        try:
            if profile and not getattr(engine, "takes_profiles", False):
                raise EngineError(f"{engine.name} builds engines for one set of shapes only, and profiles were given")
            # A loaded model does without the onnx package, which ONNX Runtime's part of the cache needs.
            cached = engine.name != "onnxruntime" or "onnx" in sys.modules
            used = config if cached else dataclasses.replace(config, cache=False)
            start = time.perf_counter()
            program, loaded = build.get(
                engine, functools.partial(_rewritten, onnx, plan, engine), None, options, device, LABEL, used
            )
            with building.loading(LABEL, engine.name):
                seat = Seat(program, device, shapes)
            seconds, how = time.perf_counter() - start, "read from the cache" if loaded else "built"
            tell_engine(
                LABEL, engine.name, how, seconds=seconds, size_bytes=program.size_bytes, precision=config.precision
            )
            return program, engine.name, seat
        except BuildInterruptedError:
            raise
        except EngineError as error:
            if following is None or config.on_error == "raise":
                raise
            warn_once(
                f"{LABEL} failed on engine {engine.name}; it goes on with {following.name}",
                found=str(error),
                next_step=f"pass engine='{following.name}' to skip the failing engine",
            )
    raise AssertionError("the last engine either returned or raised")


def _rewritten(onnx: bytes, plan: Plan, engine: engines.Engine) -> bytes:
    """Returns the model that an engine builds."""
    if plan.kind == "fp32":
        return onnx  # without an import of the package onnx, which loading a model does not need
    from mxnet_trt_property.precision.rewriting import rewrite

    return rewrite(
        onnx,
        plan,
        LABEL,
        has_bfloat16=engines.has_bfloat16(engine),
        no_int8=functools.partial(engines.no_int8, engine),
    )
