// The table of Python callbacks and the error text of the current thread, shared by the two halves of the library.

#ifndef MXNET_TRT_PROPERTY_CALLBACKS_H_
#define MXNET_TRT_PROPERTY_CALLBACKS_H_

#include <string>

#include "bridge.h"

namespace mxtrt {

// Returns the callbacks, or nullptr where Python is not (or no longer) there; counts the call.
const MxtrtCallbacks* Callbacks();
bool HasCallbacks();

// The text that MXNet fetches through _msgGet after a call on this thread failed.
std::string& ErrorText();

// Stores `text` unless a callback left a better one, and returns MXTRT_FAIL.
int Fail(const char* text);

}  // namespace mxtrt

#endif  // MXNET_TRT_PROPERTY_CALLBACKS_H_
