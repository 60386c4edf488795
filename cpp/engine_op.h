// Operators of this library's own that are pushed to MXNet's engine.

#ifndef MXNET_TRT_PROPERTY_ENGINE_OP_H_
#define MXNET_TRT_PROPERTY_ENGINE_OP_H_

#include "bridge.h"

namespace mxtrt {

// Pushes an operator that reads an NDArray, or writes it. It runs in this thread before the return, where nothing is
// under way on the array. `drop` gets `param` when the operator is gone, also one that MXNet has skipped since an error
// lies on the array. Returns what MXNet does: 0 is success.
int PushOperator(const MxtrtSpin& spin, void* array, bool writes, void (*run)(void*, void*), void (*drop)(void*),
                 void* param, const char* name);

}  // namespace mxtrt

#endif  // MXNET_TRT_PROPERTY_ENGINE_OP_H_
