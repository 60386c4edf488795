// Owner of the callback table, of each thread's error text, and of the library's registration with MXNet.

#include "callbacks.h"

#include <stdlib.h>

#include <atomic>

#include "mxnet_api.h"

namespace mxtrt {
namespace {

std::atomic<const MxtrtCallbacks*> g_callbacks{nullptr};
std::atomic<uint64_t> g_callback_count{0};

}  // namespace

const MxtrtCallbacks* Callbacks() {
  g_callback_count.fetch_add(1, std::memory_order_relaxed);
  return g_callbacks.load(std::memory_order_acquire);
}

bool HasCallbacks() { return g_callbacks.load(std::memory_order_acquire) != nullptr; }

std::string& ErrorText() {
  static thread_local std::string text;
  return text;
}

int Fail(const char* text) {
  if (ErrorText().empty()) ErrorText() = text;
  return MXTRT_FAIL;
}

}  // namespace mxtrt

extern "C" {

int mxtrt_abi_version(void) { return MXTRT_ABI_VERSION; }

void mxtrt_struct_sizes(uint32_t* sizes) {
  sizes[0] = sizeof(MxtrtTensor);
  sizes[1] = sizeof(MxtrtAttrs);
  sizes[2] = sizeof(MxtrtCallbacks);
  sizes[3] = sizeof(MxtrtCopy);
  sizes[4] = sizeof(MxtrtReplaySpec);
  sizes[5] = sizeof(MxtrtForkApi);
  sizes[6] = sizeof(MxtrtInferenceApi);
  sizes[7] = sizeof(MxtrtSpin);
  sizes[8] = sizeof(MxtrtWrite);
}

int mxtrt_set_callbacks(const MxtrtCallbacks* callbacks) {
  if (callbacks == nullptr) {
    mxtrt::g_callbacks.store(nullptr, std::memory_order_release);
    return MXTRT_OK;
  }
  if (callbacks->abi_version != MXTRT_ABI_VERSION || callbacks->struct_size != sizeof(MxtrtCallbacks))
    return MXTRT_FAIL;
  // Never freed: a forward on another thread may hold the old table.
  mxtrt::g_callbacks.store(new MxtrtCallbacks(*callbacks), std::memory_order_release);
  return MXTRT_OK;
}

void mxtrt_set_error(const char* text) { mxtrt::ErrorText() = text; }

const char* mxtrt_error(void) { return mxtrt::ErrorText().c_str(); }

uint64_t mxtrt_callback_count(void) { return mxtrt::g_callback_count.load(std::memory_order_relaxed); }

}  // extern "C"

// ---- what MXLoadLib asks of every library; declared extern "C" by lib_api.h ----

MX_INT_RET _opVersion() { return MX_LIBRARY_VERSION; }

// MXNet passes its version as major * 10000 + minor * 100 + patch. The boundary is the one of 1.9; 2.x changed it.
mxnet::ext::MXReturnValue initialize(int version) {
  mxtrt::ErrorText().clear();
  if (version >= 10900 && version < 11000) return mxnet::ext::MX_SUCCESS;
  mxtrt::ErrorText() = "mxnet-trt-property needs MXNet 1.9, found version number " + std::to_string(version);
  return mxnet::ext::MX_FAIL;
}

// At most one message: the one of the call that just failed on this thread. MXNet's own helper keeps every
// message of the process and walks them all at each forward.
MX_INT_RET _msgSize() { return mxtrt::ErrorText().empty() ? 0 : 1; }

MX_VOID_RET _msgGet(int, const char** msg) { *msg = mxtrt::ErrorText().c_str(); }

MX_VOID_RET _opCallFree(void* ptr) { free(ptr); }

MX_INT_RET _passRegSize() { return 0; }

MX_VOID_RET _passRegGet(int, mxnet::ext::graphPass_t*, const char**) {}

MX_INT_RET _passCallGraphPass(mxnet::ext::graphPass_t, const char*, char**, const char* const*, const char* const*, int,
                              const char*, const char* const*, int, void* const*, const int64_t* const*, const int*,
                              const int*, const size_t*, const char* const*, const int*, const char* const*, int,
                              void* const*, const int64_t* const*, const int*, const int*, const size_t*,
                              const char* const*, const int*, mxnet::ext::nd_malloc_t, const void*) {
  return mxtrt::Fail("mxnet-trt-property registers no graph pass");
}
