"""`python -m mxnet_trt_property` is the console script `mxnet-trt`."""

import sys

from mxnet_trt_property.cli.main import main

sys.exit(main())
