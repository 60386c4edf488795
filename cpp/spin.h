// What MXEnginePushSyncND takes, and what a fork must do to the count of threads that wait awake.

#ifndef MXNET_TRT_PROPERTY_SPIN_H_
#define MXNET_TRT_PROPERTY_SPIN_H_

#include <stdint.h>

namespace mxtrt {

// mxnet::Context, taken by address.
struct Context {
  int32_t dev_type;
  int32_t dev_id;
};

// mxnet::FnProperty::kAsync, taken by address: an operator on which nothing is waiting runs in the thread that pushes
// it.
extern int g_in_pushing_thread;

void ResetSpinningInChild();

}  // namespace mxtrt

#endif  // MXNET_TRT_PROPERTY_SPIN_H_
