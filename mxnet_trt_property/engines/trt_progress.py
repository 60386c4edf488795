"""TensorRT's reports on a build, and the only way to stop one."""

from __future__ import annotations

from typing import Any, Optional

from mxnet_trt_property import building


def attach(trt: Any, config: Any) -> Optional[building.Build]:
    """Makes a builder configuration report to the build of this thread; returns that, or None where there is none.

    The bindings keep the monitor as long as the configuration. Versions before 9 have no monitor.
    """
    build = building.current()
    if build is None or not hasattr(trt, "IProgressMonitor"):
        return None
    progress, is_stopped = build.progress, build.is_stopped

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base class is only known at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            progress.start(phase_name, parent_phase or "", num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress.step(phase_name, step)
            return not is_stopped()

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    config.progress_monitor = Monitor()
    return build
