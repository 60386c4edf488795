// MXNet's extension header, with the functions that MXLoadLib looks up made visible.
//
// Only its declarations are used: they let the compiler check our C entry points against MXNet's. The helper
// lib_api.cc is not compiled in; it would parse JSON with its own reader and build tensor objects at each forward.

#ifndef MXNET_TRT_PROPERTY_MXNET_API_H_
#define MXNET_TRT_PROPERTY_MXNET_API_H_

#pragma GCC visibility push(default)
#include <mxnet/lib_api.h>
#pragma GCC visibility pop

#endif  // MXNET_TRT_PROPERTY_MXNET_API_H_
