"""An MXNet network as a PyTorch module: the same graph, the same weights, torch's own functions.

For comparing speed on one and the same network. It knows the operators of Gluon's ResNets and MobileNets.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from mxnet_trt_property.graph import Graph, Node


class MXNetGraph(torch.nn.Module):
    """Runs a symbol's graph on one input called `data`."""

    def __init__(self, symbol: Any, parameters: Mapping[str, Any]) -> None:
        super().__init__()
        self._graph = Graph.from_json(symbol.tojson())
        self._steps: list[tuple[int, tuple[int, ...], Callable[..., Any]]] = []
        self._data = -1
        self._buffers_of: dict[int, str] = {}
        for node in self._graph.nodes:
            if node.is_variable and node.name == "data":
                self._data = node.id
            elif node.is_variable:
                name = f"p{node.id}"
                self.register_buffer(name, torch.from_numpy(np.array(parameters[node.name].asnumpy())))
                self._buffers_of[node.id] = name
            else:
                self._steps.append((node.id, tuple(e.node for e in node.inputs), _function(node)))
        self._head = self._graph.heads[0].node
        self._fix_gammas()

    def _fix_gammas(self) -> None:
        """Gamma counts as 1 in a BatchNorm with fix_gamma, which is MXNet's default."""
        for node in self._graph.operators:
            if node.op == "BatchNorm" and node.attrs.get("fix_gamma", "True") == "True":
                getattr(self, self._buffers_of[node.inputs[1].node]).fill_(1.0)

    def forward(self, data: Any) -> Any:
        """Returns the first output."""
        values = {node: getattr(self, name) for node, name in self._buffers_of.items()}
        values[self._data] = data
        for node, inputs, function in self._steps:
            values[node] = function(*(values[i] for i in inputs))
        return values[self._head]


def _function(node: Node) -> Callable[..., Any]:
    """Returns what computes a node from its inputs."""
    attrs = {k: _value(v) for k, v in node.attrs.items()}
    if node.op == "Convolution":
        return lambda x, w, b=None: functional.conv2d(
            x, w, b, attrs.get("stride", 1), attrs.get("pad", 0), attrs.get("dilate", 1), attrs.get("num_group", 1)
        )
    if node.op == "BatchNorm":
        return lambda x, gamma, beta, mean, var: functional.batch_norm(
            x, mean, var, gamma, beta, False, 0.0, attrs.get("eps", 1e-3)
        )
    if node.op == "Activation" and attrs["act_type"] == "relu":
        return functional.relu
    if node.op == "clip":
        return lambda x: torch.clamp(x, attrs["a_min"], attrs["a_max"])
    if node.op == "Pooling" and attrs.get("global_pool"):
        return lambda x: functional.adaptive_avg_pool2d(x, 1)
    if node.op == "Pooling" and attrs.get("pool_type", "max") == "max":
        return lambda x: functional.max_pool2d(x, attrs["kernel"], attrs.get("stride", 1), attrs.get("pad", 0))
    if node.op == "FullyConnected":
        return lambda x, w, b=None: functional.linear(x.flatten(1), w, b)
    if node.op == "Flatten":
        return lambda x: x.flatten(1)
    if node.op in ("elemwise_add", "broadcast_add"):
        return torch.add
    raise NotImplementedError(f"node '{node.name}' ({node.op})")


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
