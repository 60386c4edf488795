"""Serves requests on several threads: one compiled model for all of them, or an executor for each.

Prints the throughput with one thread and with more. A thread computes on one core (OMP_NUM_THREADS=1): threads, not the
operators inside, share the cores. MXNet runs one operator at a time on the CPU unless it is told otherwise before it is
imported: see the three variables at the top. Weights are random, since only time and agreement matter here.
"""

import os
import sys

THREADS = int(os.environ.get("THREADS", str(min(4, os.cpu_count() or 1))))
os.environ.setdefault("OMP_NUM_THREADS", "1")
for variable in ("MXNET_CPU_WORKER_NTHREADS", "MXNET_CPU_TEMP_COPY", "MXNET_CPU_PARALLEL_RAND_COPY"):
    os.environ.setdefault(variable, str(THREADS))

import threading  # noqa: E402
import time  # noqa: E402

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
from common import arguments, backend, verdict  # noqa: E402
from mxnet.gluon.model_zoo import vision  # noqa: E402

import mxnet_trt_property  # noqa: E402

SHAPE = (1, 3, 128, 128)


def network():
    """Returns a MobileNet's symbol and parameters, with statistics of random images."""
    mx.random.seed(0)
    net = vision.mobilenet_v2_1_0()
    net.initialize(mx.init.Xavier())
    for _ in range(5):
        with mx.autograd.record():
            loss = net(mx.nd.random.normal(shape=(4, *SHAPE[1:]))).mean()
        loss.backward()
    symbol = net(mx.sym.Variable("data"))
    values = {name: parameter.data() for name, parameter in net.collect_params().items()}
    states = set(symbol.list_auxiliary_states())
    return (
        symbol,
        {k: v for k, v in values.items() if k not in states},
        {k: v for k, v in values.items() if k in states},
    )


def executor(symbol, arg_params, aux_params):
    """Returns a function that serves one request with an executor of its own; for one thread."""
    bound = symbol.simple_bind(mx.cpu(), grad_req="null", data=SHAPE)
    bound.copy_params_from(arg_params, aux_params)
    return lambda request: bound.forward(is_train=False, data=mx.nd.array(request))[0].asnumpy()


def serve(makers, requests, seconds):
    """Serves the requests in a ring on as many threads as there are functions.

    Returns:
        Requests in a second, and the answers of each thread by number of the request.
    """
    serving = [make() for make in makers]
    answers, counts, failures = [{} for _ in makers], [0] * len(makers), []
    for call in serving:
        call(requests[0])  # builds, before the clock starts
    end = time.perf_counter() + seconds

    def work(index):
        try:
            while time.perf_counter() < end or counts[index] < len(requests):
                number = counts[index] % len(requests)
                answers[index][number] = serving[index](requests[number])
                counts[index] += 1
        except Exception as error:  # told by the main thread
            failures.append(error)

    start = time.perf_counter()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(makers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(counts) / (time.perf_counter() - start), answers


def main():
    """Serves in each way and returns the exit status."""
    options = arguments(__doc__ + "\nTHREADS=N in the environment sets the most threads.")
    parts = network()
    requests = np.random.RandomState(3).standard_normal((8, *SHAPE)).astype("float32")
    with backend("MXNet"):
        stock = executor(*parts)
        expected = np.stack([stock(request) for request in requests])
    found = []
    with mxnet_trt_property.compile(*parts, {"data": SHAPE}) as model:
        ways = (
            ("MXNet", "MXNet, an executor each", lambda: executor(*parts)),
            ("TensorRT", "TensorRT, an executor each", lambda: executor(*parts)),
            ("TensorRT", "one compiled model", lambda: model),
        )
        for name, words, make in ways:
            single = None
            for count in sorted({1, THREADS}):
                with backend(name):
                    rate, answers = serve([make] * count, requests, options.seconds)
                single = single or rate
                print(f"{words:<27} {count} thread(s): {rate:7.1f} requests per second ({rate / single:.2f} x)")
                found += [np.stack([one[i] for i in range(len(requests))]) for one in answers if name == "TensorRT"]
    print(f"the answers of {len(found)} threads to {len(requests)} requests:")
    with backend("TensorRT"):
        last = executor(*parts)
        last(requests[0])  # `verdict` tells of executors that are alive
        return verdict(np.stack(found), np.stack([expected] * len(found)))


if __name__ == "__main__":
    sys.exit(main())
