// What a fork of the process does to the operator states; see fork.cc.

#ifndef MXNET_TRT_PROPERTY_SUBGRAPH_OP_H_
#define MXNET_TRT_PROPERTY_SUBGRAPH_OP_H_

namespace mxtrt {

// Takes the captured runs from every state without touching CUDA, whose state no child inherits, and frees the lock of
// the table of states, which another thread of the parent may have held.
void ResetStatesInChild();

}  // namespace mxtrt

#endif  // MXNET_TRT_PROPERTY_SUBGRAPH_OP_H_
