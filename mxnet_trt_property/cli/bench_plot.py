"""The bar chart of a benchmark."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mxnet_trt_property.errors import TensorRTPropertyError, message

_COLOURS = {
    "mxnet": "#8c8c8c",
    "blog loop": "#1f77b4",
    "forward": "#2ca02c",
    "compile": "#d62728",
    "limit": "#111111",
    "floor": "#c7c7c7",
}
_WIDTH_INCHES, _WIDTH_LETTERS = 7.8, 110
_FEWEST_GROUPS = 3  # of bars: the batch sizes that bench takes by itself


class PlotError(TensorRTPropertyError):
    """The chart cannot be drawn."""


def check() -> None:
    """Looks whether matplotlib is there, before minutes are spent on measuring.

    Raises:
        PlotError: It is not.
    """
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise PlotError(
            message(
                "--plot needs matplotlib",
                found=str(error),
                next_step="pip install 'mxnet-trt-property[plot]', or leave --plot out",
            )
        ) from None


def draw(rows: Sequence[Any], machine: str, path: Path) -> None:
    """Writes the chart: a panel for each network and precision, a group of bars for each batch size.

    Args:
        rows: The benchmark's rows; those without times are left out.
        machine: A line about the machine.
        path: The file; its ending says the format.

    Raises:
        PlotError: There is nothing to draw, or matplotlib does not know the format.
        OSError: The file cannot be written.
    """
    check()
    # By name, so that type checkers do not ask for a package that is optional.
    rc_context = importlib.import_module("matplotlib").rc_context
    figures = importlib.import_module("matplotlib.figure")
    ticker = importlib.import_module("matplotlib.ticker")
    rows = [row for row in rows if row.milliseconds]
    panels = list(dict.fromkeys((row.model, row.precision) for row in rows))
    if not panels:
        raise PlotError(message("There is nothing to draw", found="no row with a right result"))
    # Text stays text, and the same numbers give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mxnet-trt-bench"}):
        # One below the other, as wide as a page of text: the numbers at the bars can be read there.
        figure = figures.Figure(figsize=(_WIDTH_INCHES, 0.9 + 2.4 * len(panels)), layout="constrained")
        names = [n for n in _COLOURS if any(n in row.milliseconds for row in rows)]
        for (axes,), panel in zip(figure.subplots(len(panels), 1, squeeze=False), panels):
            group = [row for row in rows if (row.model, row.precision) == panel]
            _panel(axes, group, names)
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(ticker.NullLocator())
            axes.set_title(f"{Path(panel[0]).name}, {panel[1]}", fontsize=11)
        figure.supylabel("milliseconds (log scale), lower is better", fontsize=9)
        figure.suptitle(textwrap.fill(machine, _WIDTH_LETTERS), fontsize=9)
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=9
        )
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        except ValueError as error:
            raise PlotError(message(f"The chart {path} cannot be written", found=str(error))) from None


def _panel(axes: Any, rows: Sequence[Any], names: Sequence[str]) -> None:
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        places = [x + (i - (len(names) - 1) / 2) * width for x in range(len(rows))]
        heights = [row.milliseconds.get(name, 0.0) for row in rows]
        bars = axes.bar(places, heights, width, label=name, color=_COLOURS[name])
        axes.bar_label(
            bars, [f"{h:.3g}" if h else "" for h in heights], fontsize=8 if len(names) < len(_COLOURS) else 7, padding=1
        )
    axes.set_yscale("log")
    axes.margins(y=0.15)
    beside = 0.5 + max(0, _FEWEST_GROUPS - len(rows)) / 2  # so that bars have one width in all panels of the usual size
    axes.set_xlim(-beside, len(rows) - 1 + beside)
    axes.tick_params(labelsize=9)
    axes.set_xticks(range(len(rows)), [f"batch {row.batch}" for row in rows])
