"""One test file for each file of mxnet_trt_property/operators."""
