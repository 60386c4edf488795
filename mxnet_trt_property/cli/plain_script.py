"""A plain MXNet inference program: loads a checkpoint, binds it, and runs it in a loop.

usage: plain_script.py PREFIX EPOCH INPUT_FILE OUTPUT_FILE [SECONDS]

INPUT_FILE is an .npz file with one array for each input; OUTPUT_FILE gets an array for each output, and
`milliseconds`, the median time of one forward with its result waited for.
"""

import sys
import time

import mxnet as mx
import numpy as np


def main(prefix, epoch, input_file, output_file, seconds):
    """Runs the checkpoint on the inputs and writes outputs and time."""
    symbol, arg_params, aux_params = mx.model.load_checkpoint(prefix, epoch)
    inputs = {name: mx.nd.array(array) for name, array in np.load(input_file).items()}
    shapes = {name: array.shape for name, array in inputs.items()}

    executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)

    for _ in range(5):
        outputs = executor.forward(is_train=False, **inputs)
        outputs[0].wait_to_read()
    times = []
    stop = time.perf_counter() + seconds
    while len(times) < 10 or time.perf_counter() < stop:
        start = time.perf_counter()
        outputs = executor.forward(is_train=False, **inputs)
        outputs[0].wait_to_read()
        times.append(time.perf_counter() - start)

    results = {name: array.asnumpy() for name, array in executor.output_dict.items()}
    np.savez(output_file, milliseconds=np.median(times) * 1e3, **results)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]) if len(sys.argv) > 5 else 3.0)
