"""Scores a folder of image files offline, spread over processes with Dask, which also spreads it over machines.

Each worker process binds its own executor once, when its first files come. Here the workers are processes of this
machine. For several machines start `dask scheduler` on one, and on each, with MXNET_SUBGRAPH_BACKEND=TensorRT set,
`dask worker tcp://THAT:8786 --nthreads 1`; where there are several GPUs one worker for each, with CUDA_VISIBLE_DEVICES.
Then give --scheduler tcp://THAT:8786, and with --folder one that all of them see.
"""

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

import mxnet as mx
import numpy as np
from common import arguments, backend, digits, speed, train_digits, verdict
from dask.distributed import Client, LocalCluster, get_worker
from PIL import Image

import mxnet_trt_property

BATCH = 32


def bind(prefix):
    """Returns an executor of the checkpoint for BATCH images."""
    symbol, arg_params, aux_params = mx.model.load_checkpoint(prefix, 0)
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(BATCH, 1, 8, 8))
    executor.copy_params_from(arg_params, aux_params)
    return executor


def score(executor, files):
    """Returns the probabilities (len(files), 10)."""
    data = np.zeros((BATCH, 1, 8, 8), "float32")  # the last files may be fewer: one shape, one engine
    for row, file in zip(data, files):
        row[:] = mx.image.imread(file, flag=0).asnumpy().transpose(2, 0, 1) / 255.0
    return executor.forward(is_train=False, data=mx.nd.array(data))[0].asnumpy()[: len(files)]


def work(prefix, files):
    """Returns the probabilities, the worker's process, and what ran there; called in a worker."""
    kept = vars(get_worker()).setdefault("mxnet_executors", {})  # lives as long as the process
    if prefix not in kept:
        kept[prefix] = bind(prefix)
    return score(kept[prefix], files), os.getpid(), mxnet_trt_property.reports()


def run(client, prefix, pieces):
    """Returns the probabilities of all files, and by process what ran there."""
    futures = client.map(work, [prefix] * len(pieces), pieces, pure=False)
    results = client.gather(futures)  # in the order of the pieces; an error in a worker is raised here
    return np.concatenate([output for output, _, _ in results]), {process: reports for _, process, reports in results}


def main():
    """Writes image files, scores them in the workers and here with stock MXNet, and returns the exit status."""
    options = arguments(__doc__, workers=2, scheduler=None, folder=None)
    _, (images, labels) = digits()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        prefix = str(Path(folder) / "digits")
        train_digits(prefix)
        files = [str(Path(folder) / f"{i:04}.png") for i in range(len(images))]
        for file, image in zip(files, images):
            Image.fromarray(np.uint8(image[0] * 255)).save(file)
        pieces = [files[i : i + BATCH] for i in range(0, len(files), BATCH)]
        with backend("TensorRT"), contextlib.ExitStack() as stack:  # workers that are started here inherit the variable
            address = options.scheduler or stack.enter_context(
                LocalCluster(n_workers=options.workers, threads_per_worker=1, dashboard_address=None)
            )
            client = stack.enter_context(Client(address))
            run(client, prefix, pieces)  # binds and builds, before the clock starts
            start = time.perf_counter()
            found, processes = run(client, prefix, pieces)
            seconds = time.perf_counter() - start
        with backend("MXNet"):
            executor = bind(prefix)
            start = time.perf_counter()
            expected = np.concatenate([score(executor, piece) for piece in pieces])
            alone = time.perf_counter() - start
    print(f"{len(files)} files in {len(pieces)} pieces, accuracy {(found.argmax(1) == labels).mean():.1%}")
    speed(alone * 1e3, seconds * 1e3, f"one process of MXNet, {len(processes)} worker process(es) with TensorRT")
    return verdict(found, expected, [report for reports in processes.values() for report in reports])


if __name__ == "__main__":
    sys.exit(main())
