"""The console script `mxnet-trt`: one module for each sub-command."""
