// Calls of Python from MXNet's engine threads, which must not be waiting for the GIL while the process forks.

#ifndef MXNET_TRT_PROPERTY_FORK_H_
#define MXNET_TRT_PROPERTY_FORK_H_

#include <stdint.h>

#include "bridge.h"

namespace mxtrt {

// One call of Python from an operator: counted for as long as it may want the GIL.
class EngineCall {
 public:
  EngineCall();
  ~EngineCall();
  EngineCall(const EngineCall&) = delete;
  EngineCall& operator=(const EngineCall&) = delete;

  bool MayCallPython() const { return why_not_ == nullptr; }
  const char* why_not() const { return why_not_; }
  const MxtrtCallbacks* callbacks() const { return callbacks_; }

 private:
  const MxtrtCallbacks* callbacks_;
  const char* why_not_ = nullptr;
};

// Tells Python to forget a state: now, or while the process forks, later.
void DestroyInPython(int64_t state_id);

// Tells Python of the states that were destroyed while the process forked.
void DestroyLateInPython(const MxtrtCallbacks* callbacks);

}  // namespace mxtrt

#endif  // MXNET_TRT_PROPERTY_FORK_H_
