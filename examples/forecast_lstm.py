"""Forecasts a series with an LSTM that is trained first, on the CPU in some ten seconds.

The series is made up: two years of an hourly demand with a day, a week, a slow drift and noise. From a week the network
says the next 24 hours. What it is worth is told by the error of saying what was a week ago, and a day ago.
"""

import sys

import mxnet as mx
import numpy as np
from common import arguments, backend, milliseconds, speed, train, verdict
from mxnet import gluon

PAST, AHEAD = 168, 24


def demand(hours):
    """Returns the series (hours,)."""
    t = np.arange(hours)
    random = np.random.RandomState(1)
    day = np.sin(2 * np.pi * t / 24) + 0.5 * np.sin(4 * np.pi * t / 24 + 1)
    week = np.where(t // 24 % 7 < 5, 1.0, 0.5)
    drift = np.cumsum(random.standard_normal(hours)) * 0.02
    return (3 + day * week + drift + 0.1 * random.standard_normal(hours)).astype("float32")


class Forecaster(gluon.HybridBlock):
    """LSTM over the past (N, 168), and a dense layer that corrects what was a week ago."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.lstm = gluon.rnn.LSTM(32, layout="NTC", input_size=24)
        self.correction = gluon.nn.Dense(AHEAD)

    def hybrid_forward(self, F, past):  # noqa: N803 (Gluon's own name)
        last = F.slice_axis(past, axis=1, begin=-1, end=None)
        days = F.reshape(F.broadcast_sub(past, last), (0, -1, 24))  # an LSTM over days: seven steps of 24 values
        state = F.slice_axis(self.lstm(days), axis=1, begin=-1, end=None)
        week_ago = F.slice_axis(past, axis=1, begin=0, end=AHEAD)
        return week_ago + self.correction(F.concat(F.flatten(state), week_ago - last.broadcast_like(week_ago)))


def windows(series, step):
    """Returns pasts (N, 168) and futures (N, 24)."""
    view = np.lib.stride_tricks.sliding_window_view(series, PAST + AHEAD)[::step]
    return view[:, :PAST].copy(), view[:, PAST:].copy()


def error(found, truth):
    """Returns the root of the mean squared error."""
    return float(np.sqrt(np.mean((found - truth) ** 2)))


def main():
    """Trains, forecasts with and without TensorRT, and returns the exit status."""
    options = arguments(__doc__, epochs=20)
    mx.random.seed(0)
    np.random.seed(0)
    series = demand(2 * 365 * 24)
    past, future = windows(series[: -90 * 24], 7)
    net = Forecaster()
    train(net, past, future, gluon.loss.L2Loss(), options.epochs, batch=128)
    past, future = windows(series[-90 * 24 :], 24)  # the last 90 days, which it has not seen
    data = mx.nd.array(past)
    symbol = net(mx.sym.Variable("past"))
    parameters = {name: parameter.data() for name, parameter in net.collect_params().items()}
    found, times = {}, {}
    for name in ("MXNet", "TensorRT"):
        with backend(name):
            executor = symbol.simple_bind(mx.cpu(), grad_req="null", past=data.shape)
            executor.copy_params_from(parameters, allow_extra_params=True)
            found[name] = executor.forward(is_train=False, past=data)[0].asnumpy()
            times[name] = milliseconds(lambda e=executor: e.forward()[0].wait_to_read(), options.seconds)
    ours = error(found["TensorRT"], future)
    naive = {"a week ago": past[:, :AHEAD], "a day ago": past[:, -AHEAD:]}
    print(f"error of the next 24 hours over {len(past)} days: LSTM {ours:.3f}")
    for words, values in naive.items():
        print(
            f"  what was {words}: {error(values, future):.3f}, the LSTM's is {ours / error(values, future):.0%} of it"
        )
    speed(times["MXNet"], times["TensorRT"], f"a batch of {len(past)} forecasts")
    status = verdict(found["TensorRT"], found["MXNet"])
    return status or int(ours > min(error(values, future) for values in naive.values()))


if __name__ == "__main__":
    sys.exit(main())
