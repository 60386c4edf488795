// Copies between host arrays so that a GPU finds the result in memory.

#ifndef MXNET_TRT_PROPERTY_COPYING_H_
#define MXNET_TRT_PROPERTY_COPYING_H_

#include <stddef.h>

namespace mxtrt {

// Told of each stretch of the target, in order, as soon as it is written: its offset and its length in bytes.
using Written = void (*)(void* user, size_t offset, size_t bytes);

// Copies with the calling thread and up to `helpers` threads that the library keeps, for all copies together. The
// stretches are of 1 MiB or more, but for the last one.
void CopyToMemory(char* target, const char* source, size_t bytes, int helpers, Written written, void* user);

// A child process has none of its parent's helpers.
void ResetCopyingInChild();

}  // namespace mxtrt

#endif  // MXNET_TRT_PROPERTY_COPYING_H_
