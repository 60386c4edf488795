// Writes an executor's input in the calling thread, and sends what is written to the GPU while the rest follows.
//
// MXNet writes it in a thread of its own, which has to be woken, and the GPU is told when all is written. Here two
// operators are pushed to MXNet's engine, one that reads the caller's array and inside of it one that writes the
// executor's, with the property of those that run in the thread that pushes them if nothing is under way on their
// arrays. So MXNet counts the write, and other threads' writes of the caller's array wait. Two, for one operator that
// reads and writes parts of the same array would wait for itself for ever.

#include <atomic>
#include <mutex>

#include "copying.h"
#include "engine_op.h"
#include "relax.h"
#include "states.h"

namespace mxtrt {
namespace {

// Work that MXNet's engine is asked to let run now; whoever is last frees it.
struct Attempt {
  enum Phase { kPending, kRunning, kEnded, kGivenUp };
  void (*work)(void*);
  void* param;
  std::atomic<int> phase{kPending};
  std::atomic<int> owners{2};

  bool Go(Phase next) {
    int pending = kPending;
    return phase.compare_exchange_strong(pending, next);
  }
  void Leave() {
    if (owners.fetch_sub(1) == 1) delete this;
  }
};

void RunAttempt(void*, void* param) {
  auto* attempt = static_cast<Attempt*>(param);
  if (!attempt->Go(Attempt::kRunning)) return;
  attempt->work(attempt->param);
  attempt->phase.store(Attempt::kEnded);
}

void DropAttempt(void* param) { static_cast<Attempt*>(param)->Leave(); }

// Runs `work` as an operator on an NDArray; returns false, and does not run it later, where it would have to wait or an
// error lies on the array.
bool RunNow(const MxtrtSpin& spin, void* array, bool writes, void (*work)(void*), void* param) {
  auto* attempt = new Attempt{work, param};
  PushOperator(spin, array, writes, RunAttempt, DropAttempt, attempt, "mxtrt_write");
  const bool runs = !attempt->Go(Attempt::kGivenUp);
  // It runs in another thread where the array became free just after.
  while (runs && attempt->phase.load() != Attempt::kEnded) Relax();
  attempt->Leave();
  return runs;
}

// A write that was asked for, and whether it was done.
struct Write {
  int64_t state_id;
  const MxtrtSpin& spin;
  const MxtrtWrite& given;
  bool done;
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
  const int status = run->Feed(write->given.position, write->given.target, offset, bytes);
  if (status == Replay::kNotFed) return;
  if (status != 0)
    state->fed = -1;  // never all again: the run is not started
  else if (offset + bytes == write->given.bytes)
    ++state->fed;
}

void Copy(void* param) {
  const auto* write = static_cast<const Write*>(param);
  const MxtrtWrite& given = write->given;
  CopyToMemory(static_cast<char*>(given.target), static_cast<const char*>(given.source), given.bytes, given.helpers,
               Send, param);
}

// The source is read meanwhile, or is none of MXNet's.
void WriteTarget(void* param) {
  auto* write = static_cast<Write*>(param);
  write->done = RunNow(write->spin, write->given.array, true, Copy, param);
}

}  // namespace
}  // namespace mxtrt

extern "C" int mxtrt_state_write(int64_t state_id, const MxtrtSpin* spin, const MxtrtWrite* given) {
  {
    std::lock_guard<std::mutex> guard(mxtrt::StatesLock());
    const mxtrt::State* state = mxtrt::Find(state_id);
    if (state == nullptr || !state->IsQuiet()) return MXTRT_FAIL;
  }
  mxtrt::Write write{state_id, *spin, *given, false};
  if (given->given == nullptr)
    mxtrt::WriteTarget(&write);
  else
    mxtrt::RunNow(*spin, given->given, false, mxtrt::WriteTarget, &write);
  return write.done ? MXTRT_OK : MXTRT_FAIL;
}
