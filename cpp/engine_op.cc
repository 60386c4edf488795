// Pushes operators to MXNet's engine through its public C API.

#include "engine_op.h"

namespace mxtrt {
namespace {

// mxnet::Context, taken by address.
struct Context {
  int32_t dev_type;
  int32_t dev_id;
};

// mxnet::FnProperty::kAsync, taken by address: MXNet runs such operators in the thread that pushes them, if it can, and
// adds none to a bulk that the program makes.
int g_in_pushing_thread = 4;

// Those that must wait come before others that wait for a thread.
constexpr int kPriority = 1;

}  // namespace

int PushOperator(const MxtrtSpin& spin, void* array, bool writes, void (*run)(void*, void*), void (*drop)(void*),
                 void* param, const char* name) {
  Context context{spin.dev_type, spin.dev_id};
  return spin.push_sync(run, param, drop, &context, &array, writes ? 0 : 1, &array, writes ? 1 : 0,
                        &g_in_pushing_thread, kPriority, name);
}

}  // namespace mxtrt
