// Waits for an array without letting the thread sleep.
//
// MXNDArrayWaitToRead puts the caller to sleep until an engine's thread wakes it, on a GPU over a second thread. In a
// virtual machine each of the two takes 20 to 60 us, the more the longer it slept, on top of a forward of 400. A caller
// that stays awake sees the result at once.
//
// MXNet shows nobody whether an array is ready. So an operator that reads it and does nothing is pushed, through the
// public C API: it runs as soon as the array is written, on the thread that wrote it, or at once.

#include <atomic>
#include <chrono>

#include "engine_op.h"
#include "relax.h"
#include "spin.h"

namespace mxtrt {
namespace {

// Shared by the thread that waits and by the operator; whoever is last frees it.
struct Probe {
  std::atomic<bool> seen{false};
  std::atomic<int> owners{2};
};

std::atomic<int> g_spinning{0};

void Leave(Probe* probe) {
  if (probe->owners.fetch_sub(1) == 1) delete probe;
}

void Run(void*, void* probe) { static_cast<Probe*>(probe)->seen.store(true); }

// MXNet skips an operator that reads an array on which an error lies, and drops it like any other.
void Drop(void* probe) {
  Run(nullptr, probe);
  Leave(static_cast<Probe*>(probe));
}

class Seat {
 public:
  explicit Seat(int32_t most) : has_(g_spinning.fetch_add(1) < most) {}
  ~Seat() { g_spinning.fetch_sub(1); }
  bool has() const { return has_; }

 private:
  bool has_;
};

}  // namespace

void ResetSpinningInChild() { g_spinning = 0; }

}  // namespace mxtrt

extern "C" int mxtrt_spin(const MxtrtSpin* spin, void* array) {
  using Clock = std::chrono::steady_clock;
  const mxtrt::Seat seat(spin->most_threads);
  if (!seat.has()) return MXTRT_FAIL;
  const auto end = Clock::now() + std::chrono::microseconds(spin->most_us);
  auto* probe = new mxtrt::Probe;
  if (mxtrt::PushOperator(*spin, array, false, mxtrt::Run, mxtrt::Drop, probe, "mxtrt_ready") != 0) {
    mxtrt::Leave(probe);
    return MXTRT_FAIL;
  }
  bool seen = false;
  do {
    for (int i = 0; i < 64 && !(seen = probe->seen.load()); ++i) mxtrt::Relax();
  } while (!seen && Clock::now() < end);
  mxtrt::Leave(probe);
  return seen ? MXTRT_OK : MXTRT_FAIL;
}
