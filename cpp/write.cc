// Writes an executor's input in the calling thread, and sends what is written to the GPU while the rest follows.
//
// MXNet writes it in a thread of its own, which has to be woken, and the GPU is told when all is written. Here an
// operator that writes the array is pushed to MXNet's engine with the property of those that run in the thread that
// pushes them, if nothing is under way on the array: so MXNet counts the write, and waits for who still reads.

#include <unistd.h>

#include <chrono>

#include "copying.h"
#include "relax.h"
#include "spin.h"
#include "states.h"

namespace mxtrt {
namespace {

struct Write {
  int64_t state_id;
  int32_t position;
  int32_t helpers;
  char* target;
  const char* source;
  uint64_t bytes;
  std::atomic<bool> ended{false};
};

// Sends a stretch of the input to the run that is to be started on it. Of a driver that refuses the forward tells.
void Send(void* user, size_t offset, size_t bytes) {
  const auto* write = static_cast<const Write*>(user);
  std::lock_guard<std::mutex> guard(StatesLock());
  State* state = Find(write->state_id);
  if (state == nullptr || !state->IsQuiet()) return;
  const Replay* run = state->feeding.load();
  if (offset == 0 && run == nullptr) {
    for (const Replay* replay : state->replays)
      if (replay->NumFed() != 0) run = replay;
    state->fed = 0;
  }
  if (run == nullptr) return;
  state->feeding = run;
  const int status = run->Feed(write->position, write->target, offset, bytes);
  if (status == Replay::kNotFed) return;
  if (status != 0)
    state->fed = -1;  // never all again: the run is not started
  else if (offset + bytes == write->bytes)
    ++state->fed;
}

void Run(void*, void* param) {
  auto* write = static_cast<Write*>(param);
  CopyToMemory(write->target, write->source, write->bytes, write->helpers, Send, write);
}

void Drop(void* param) { static_cast<Write*>(param)->ended.store(true); }

// The operator runs elsewhere where somebody still uses the array.
void WaitForEnd(const Write& write, int64_t most_us) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::microseconds(most_us);
  while (!write.ended.load()) {
    Relax();
    if (Clock::now() >= end) usleep(50);
  }
}

}  // namespace
}  // namespace mxtrt

extern "C" int mxtrt_state_write(int64_t state_id, const MxtrtSpin* spin, const MxtrtWrite* given) {
  using mxtrt::Write;
  {
    std::lock_guard<std::mutex> guard(mxtrt::StatesLock());
    const mxtrt::State* state = mxtrt::Find(state_id);
    if (state == nullptr || !state->IsQuiet()) return MXTRT_FAIL;
  }
  Write write{state_id,
              given->position,
              given->helpers,
              static_cast<char*>(given->target),
              static_cast<const char*>(given->source),
              given->bytes};
  mxtrt::Context context{spin->dev_type, spin->dev_id};
  void* array = given->array;
  if (spin->push_sync(mxtrt::Run, &write, mxtrt::Drop, &context, nullptr, 0, &array, 1, &mxtrt::g_in_pushing_thread, 0,
                      "mxtrt_write") != 0)
    return MXTRT_FAIL;
  mxtrt::WaitForEnd(write, spin->most_us);
  return MXTRT_OK;
}
