// What a fork must do to the count of threads that wait awake.

#ifndef MXNET_TRT_PROPERTY_SPIN_H_
#define MXNET_TRT_PROPERTY_SPIN_H_

namespace mxtrt {

void ResetSpinningInChild();

}  // namespace mxtrt

#endif  // MXNET_TRT_PROPERTY_SPIN_H_
