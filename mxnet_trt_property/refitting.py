"""What becomes of a built engine when its weights change: new weights in place, in a copy, or another build.

No run ever sees old and new weights together. A program that a session has for itself is taken out of the table of
programs before it is refitted, and comes back under the key of its new weights; one that other sessions use stays as it
is for them, and a copy of it is refitted. A program whose refit failed is run by nobody any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Optional

from mxnet_trt_property import programs
from mxnet_trt_property.engines.registry import Device, Engine, Options, RefittableProgram
from mxnet_trt_property.errors import EngineError

# The values of MXNET_TENSORRT_REFIT.
AUTO, ALWAYS, NEVER = "auto", "always", "never"


class Refitted(NamedTuple):
    """What came of an attempt.

    Attributes:
        entry: The entry of the new weights; None where the engine has to be built again.
        reason: Why it has to; "" where it does not.
    """

    entry: Optional[programs.Entry]
    reason: str


def is_wanted(mode: str, engine: Engine, options: Options, device: Device, changes: int) -> bool:
    """Returns whether an engine is to be built so that it can take new weights.

    Args:
        mode: The value of MXNET_TENSORRT_REFIT.
        engine: The engine.
        options: The options of the build.
        device: Where the arrays lie.
        changes: How often the weights changed while an engine had been built for them.
    """
    return (mode == ALWAYS or (mode == AUTO and changes > 0)) and not why_not(mode, engine, options, device)


def why_not(mode: str, engine: Engine, options: Options, device: Device) -> str:
    """Returns why no engine built with these options for a device can take new weights, or ""."""
    if mode == NEVER:
        return "MXNET_TENSORRT_REFIT is 'never'"
    ask = getattr(engine, "why_no_refit", None)
    return f"engine {engine.name} cannot change weights" if ask is None else str(ask(options, device))


def refit(
    old: programs.Entry,
    key: programs.Key,
    model: Callable[[], bytes],
    device: Device,
    user: programs.User,
    why: str,
) -> Refitted:
    """Gives a built engine new weights, and the table an entry for them that the caller uses.

    Args:
        old: The entry that the caller had for the old weights, and has given back.
        key: The key of the new weights.
        model: Returns the serialized ONNX model with the new weights.
        device: Where the arrays lie.
        user: The caller.
        why: What `why_not` said of the engine.
    """
    if programs.has(key):
        return Refitted(None, "")  # somebody has an engine with these weights
    if why:
        return Refitted(None, why)
    program = old.program
    if not isinstance(program, RefittableProgram):
        return Refitted(None, f"engine {old.engine} cannot change weights")
    if program.no_refit:
        return Refitted(None, program.no_refit)
    start = time.perf_counter()
    values = model()
    reason = program.misfit(values)
    if reason:
        return Refitted(None, reason)
    try:
        if programs.take_over(old):
            program.refit(values, [runner for _, runner in old.idle])
            entry = programs.Entry(program, old.engine, time.perf_counter() - start, idle=old.idle)
        else:
            copy = program.refitted_copy(values, device)
            entry = programs.Entry(copy, old.engine, time.perf_counter() - start)
    except EngineError as error:
        return Refitted(None, str(error))
    programs.put(key, entry, user)
    return Refitted(entry, "")
