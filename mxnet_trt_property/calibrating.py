"""Calibration of a TensorRT node on its first forwards, for int8 without a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from mxnet_trt_property import settings, subgraph
from mxnet_trt_property.precision import calibration, tables
from mxnet_trt_property.precision.runtime import Feed


class FirstForwards:
    """Collects ranges on as many forwards as the settings say, whichever state of the same subgraph runs them.

    Args:
        graph: The subgraph.
        config: The settings.
        label: What messages call the node.
    """

    def __init__(self, graph: subgraph.Subgraph, config: settings.Settings, label: str) -> None:
        self._graph = graph
        self._label = label
        self.wanted, self.method = config.calibration_iters, config.calibration_method

    def take(
        self, weights: tuple[bytes, ...], model: Callable[[], bytes], feed: Callable[[], Feed]
    ) -> Optional[dict[str, tuple[float, float]]]:
        """Looks at the inputs of one more forward; returns the table once enough are behind.

        Args:
            weights: Digests of the weights: with others the calibration starts again.
            model: Returns the float32 model with them.
            feed: Returns the inputs by their ONNX names.

        Raises:
            EngineError: ONNX Runtime is missing or refuses the model, or values are not finite.
        """
        progress = self._progress(weights)
        with progress.lock:
            if progress.collector is None:
                progress.collector = calibration.Collector(model(), self.method, self._label)
            if progress.collector.batches < self.wanted:
                progress.collector.add(feed())
                return None
            if progress.ranges is None:
                progress.ranges = progress.collector.ranges()
            return tables.by_key(progress.ranges, self._graph.model.value_keys)

    def ranges(self, weights: tuple[bytes, ...]) -> dict[str, tuple[float, float]]:
        """Returns the ranges collected so far, by the keys of a calibration table.

        Raises:
            EngineError: Values were not finite.
        """
        progress = self._progress(weights)
        with progress.lock:
            found = progress.collector.ranges() if progress.collector is not None else {}
        return tables.by_key(found, self._graph.model.value_keys)

    def _progress(self, weights: tuple[bytes, ...]) -> calibration.Progress:
        return calibration.progress((self._graph.structure, weights, self._label, self.wanted, self.method))
