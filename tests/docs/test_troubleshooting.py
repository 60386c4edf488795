"""docs/troubleshooting.md has every message of the sources and no other; those of common mistakes are produced."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

import mxnet_trt_property
from mxnet_trt_property.cli.main import main
from mxnet_trt_property.engines import registry
from mxnet_trt_property.environment import environment
from tests.docs import messages
from tests.symbols import backend, conv_bn, mlp, random_arrays, split_net
from tests.test_failures import BrokenEngine

SHAPES = {"data": (2, 5)}


def test_the_page_has_every_message_once() -> None:
    page, sources = messages.on_page(), messages.in_sources()
    assert len(page) == len(set(page)), sorted(text for text in page if page.count(text) > 1)
    missing = {text: places for text, places in sources.items() if text not in page}
    assert not missing, f"docs/troubleshooting.md lacks them (python -m tests.docs.messages prints rows): {missing}"
    gone = set(page) - messages.in_sources(with_plain_errors=True).keys()
    assert not gone, f"docs/troubleshooting.md has messages that no source has: {gone}"


def bind(symbol: Any, shapes: dict[str, tuple[int, ...]] = SHAPES, **arguments: Any) -> Any:
    """Binds with TensorRT on."""
    return symbol.simple_bind(mx.cpu(), **{"grad_req": "null", **arguments}, **shapes)


def parameters(symbol: Any) -> dict[str, Any]:
    return {k: v for k, v in random_arrays(symbol, SHAPES).items() if k != "data"}


def compiled(**options: Any) -> Any:
    return mxnet_trt_property.compile(mlp(), parameters(mlp()), {}, SHAPES, engine="onnxruntime", **options)


def forward(**arguments: Any) -> None:
    executor = bind(mlp())
    executor.forward(**arguments)[0].wait_to_read()


def block(mode: Callable[[], Any]) -> None:
    """Calls a block with TensorRT nodes inside of `mode()`."""
    net = gluon.nn.HybridSequential(prefix="doc_")
    net.add(gluon.nn.Dense(3), gluon.nn.Activation("relu"))
    net.initialize()
    net.hybridize(backend="TensorRT")
    with mode():
        net(mx.nd.ones((2, 4)))


def monitored() -> None:
    bind(mlp()).set_monitor_callback(lambda name, array: None)


def large_values() -> None:
    data = mx.sym.Variable("data")
    net = mx.sym.FullyConnected(mx.sym.relu(data), num_hidden=3, name="fc")
    executor = bind(net)
    executor.arg_dict["fc_weight"][:] = 1000
    executor.forward(data=mx.nd.ones((2, 5)) * 1000)[0].wait_to_read()


def frozen_symbol() -> Any:
    return mlp().optimize_for("TensorRT", parameters(mlp()), {}, mx.cpu(), shape_dict=SHAPES)


def with_gradients() -> None:
    symbol = mlp().optimize_for("TensorRT", shape_dict=SHAPES)
    executor = symbol.simple_bind(
        mx.cpu(), data=(2, 5), fc1_weight=(8, 5), fc1_bias=(8,), fc2_weight=(3, 8), fc2_bias=(3,)
    )
    executor.forward(is_train=True)
    executor.backward([mx.nd.ones((2, 3))])
    executor.grad_arrays[0].wait_to_read()


def two_of_one_name() -> None:
    bind(mx.sym.broadcast_add(mx.sym.Variable("data"), mx.sym.Variable("data")))


def control_flow() -> None:
    data = mx.sym.Variable("data")
    bind(mx.sym.contrib.cond(mx.sym.sum(data) > 0, lambda: mx.sym.relu(data), lambda: data))


def file(contents: bytes) -> str:
    Path("model.mxtrt").write_bytes(contents)
    return "model.mxtrt"


def saved(change: Callable[[bytes], bytes]) -> str:
    """Returns the path of a compiled model that was changed."""
    compiled().save("model.mxtrt")
    return file(change(Path("model.mxtrt").read_bytes()))


def closed() -> None:
    model = compiled()
    model.close()
    model(np.zeros((2, 5), "float32"))


def command(*arguments: str) -> None:
    split_net().save("net-symbol.json")
    main(arguments)


class Case:
    """A mistake and the message of the page that it gives.

    Attributes:
        text: The message, as the page has it.
        make: Makes the mistake.
        variables: Variables that are set besides, by their names after the prefix; BROKEN is where an engine of the
            test's, the first one to be tried, fails.
    """

    def __init__(self, text: str, make: Callable[[], Any], **variables: str) -> None:
        self.text, self.make, self.variables = text, make, variables

    def __str__(self) -> str:
        """Returns the test's id."""
        return re.sub(r"\W+", "-", self.text)[:60]


CASES = [
    Case("… has a value that is not valid", lambda: bind(mlp()), PRECISION="fp17"),
    Case("The variable … is not one that this version knows; it has no effect", lambda: bind(mlp()), PRECISON="fp16"),
    Case("The TensorRT backend was given an option that it does not have", lambda: mlp().optimize_for("TensorRT", a=1)),
    Case(
        "The option backend_opts of the TensorRT backend is not valid",
        lambda: mlp().optimize_for("TensorRT", backend_opts="fp16"),
    ),
    Case(
        "gradients are asked for (grad_req is not 'null'): training is left to MXNet",
        lambda: bind(mlp(), grad_req="write"),
    ),
    Case(
        "stype_dict asks for sparse arrays: the graph is left to MXNet",
        lambda: bind(mx.sym.relu(mx.sym.Variable("data")), stype_dict={"data": "csr"}),
    ),
    Case("two arguments have one name: the graph is left to MXNet", two_of_one_name),
    Case(
        "some shapes in a graph are known only while it runs (control flow, boolean masks), and engines are made for "
        "shapes that are known before: the graph is left to MXNet",
        control_flow,
    ),
    Case("forward(is_train=True) runs on MXNet: TensorRT nodes are for inference", lambda: forward(is_train=True)),
    Case(
        "a monitor is installed: MXNet runs the executor's graph, for TensorRT shows no node inside its own", monitored
    ),
    Case(
        "A graph could not be partitioned for TensorRT, since MXNet's inference of its shapes failed",
        lambda: bind(mlp(), {"data": (2, 5), "fc1_weight": (8, 6)}),
    ),
    Case(
        "reshape would change the shape of argument '…', which was not named",
        lambda: bind(conv_bn(), {"data": (2, 3, 8, 8)}).reshape(data=(1, 3, 8, 8)),
    ),
    Case("Unknown argument …", lambda: forward(image=mx.nd.ones((2, 5)))),
    Case("only accept keyword argument of NDArrays and numpy.ndarray", lambda: forward(data=[1, 2])),
    Case("Shape not match! Argument …, need: …, received: …", lambda: forward(data=mx.nd.ones((3, 5)))),
    Case("… cannot run on engine …", lambda: bind(mlp()), ENGINE="tensorrt", ON_ERROR="raise"),
    Case("… failed on engine …; it goes on with …", forward, BROKEN="run"),
    Case("… failed on engine …", forward, BROKEN="run", ON_ERROR="raise"),
    Case(
        "An executor was deleted whose last forward had failed; its outputs hold no result",
        lambda: bind(mlp()).forward()[0].wait_to_read(),
        BROKEN="run",
        ON_ERROR="raise",
    ),
    Case(
        "…: node … stays in float32: it met a value of …, and … ends at …",
        large_values,
        PRECISION="fp16",
    ),
    Case(
        "A symbol with frozen weights can only be saved to a local file",
        lambda: frozen_symbol().save("s3://b/net.json"),
    ),
    Case("… was called inside autograd.record(), and its graph has TensorRT nodes", lambda: block(mx.autograd.record)),
    Case(
        "a HybridBlock with TensorRT nodes was called in training mode: it does inference all the same (Dropout does "
        "nothing, BatchNorm uses its running statistics)",
        lambda: block(mx.autograd.train_mode),
    ),
    Case(
        "a TensorRT node was asked for gradients; it is for inference only | next step: bind the symbol with gradients "
        "without the TensorRT backend, or unset MXNET_SUBGRAPH_BACKEND while training",
        with_gradients,
    ),
    Case(
        "compile was given something else than a network",
        lambda: mxnet_trt_property.compile("net", {}, {}, SHAPES),
    ),
    Case(
        "The network cannot be compiled as a whole: … of … nodes are refused",
        lambda: mxnet_trt_property.compile(split_net(), parameters(split_net()), {}, SHAPES),
    ),
    Case(
        "Arguments of the network have neither a value nor a shape",
        lambda: mxnet_trt_property.compile(mlp(), {}, {}, SHAPES),
    ),
    Case(
        "shapes= names inputs that the network does not have",
        lambda: mxnet_trt_property.compile(mlp(), parameters(mlp()), {}, {"image": (2, 5)}),
    ),
    Case(
        "…: shapes and values contradict the network",
        lambda: mxnet_trt_property.compile(mlp(), parameters(mlp()), {}, {"data": (2, 6)}),
    ),
    Case("… was called with the wrong inputs", lambda: compiled()(image=np.zeros((2, 5), "float32"))),
    Case("… does not fit the compiled model", lambda: compiled()(np.zeros((2, 6), "float32"))),
    Case(
        "… has gaps between its elements or another order of its axes",
        lambda: compiled()(np.zeros((5, 2), "float32").T),
    ),
    Case("… is no array", lambda: compiled()([[0.0] * 5] * 2)),
    Case("A compiled model was given a sparse NDArray", lambda: compiled()(mx.nd.zeros((2, 5)).tostype("csr"))),
    Case("A compiled model cannot be saved: its ONNX model was not kept", lambda: compiled(keep_onnx=False).save("x")),
    Case("… is not a compiled model", lambda: mxnet_trt_property.load(file(b"PK of another kind"))),
    Case("The compiled model … is damaged", lambda: mxnet_trt_property.load(saved(lambda b: b[:-1]))),
    Case("The ONNX Runtime runner of … is closed", closed),
    Case("--shape names what is not there", lambda: command("explain", "net", "--shape", "image=2,5")),
    Case("--shape has a value that is not valid", lambda: command("explain", "net", "--shape", "2,5")),
    Case("… cannot be loaded", lambda: command("explain", "other", "--shape", "data=2,5")),
    Case(
        "… cannot be explained", lambda: command("explain", "net", "--shape", "data=2,5", "--shape", "fc1_weight=1,1")
    ),
    Case("-o has a format that is not known", lambda: command("plot", "net", "-o", "net.bmp")),
    Case("Gluon's zoo has no network '…'", lambda: command("bench", "--models", "resnet19")),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_message_is_produced(
    case: Case,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    fresh_warnings: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    variables = dict(case.variables)
    broken = variables.pop("BROKEN", None)
    if broken is None:
        variables.setdefault("ENGINE", "onnxruntime")
    else:
        monkeypatch.setitem(registry._LOADED, "tensorrt", BrokenEngine(broken))
    told = []
    with backend("TensorRT"), environment({f"MXNET_TENSORRT_{k}": v for k, v in variables.items()}):
        try:
            case.make()
        except Exception as error:  # what it is, the page does not say; what it says, it does
            told.append(str(error))
    told += [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    told += capfd.readouterr().err.splitlines()
    pattern = re.escape(case.text).replace(messages.GAP, ".+")
    assert case.text in messages.on_page()
    assert any(re.search(pattern, text) for text in told), told
