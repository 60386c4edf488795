// The table of states, and what Python does to one: attaches and takes away captured runs, and starts them early.

#include "states.h"

#include <new>

namespace mxtrt {

std::mutex& StatesLock() {
  static std::mutex* lock = new std::mutex;
  return *lock;
}

std::unordered_map<int64_t, State*>& States() {
  static auto* states = new std::unordered_map<int64_t, State*>;
  return *states;
}

State* Find(int64_t state_id) {
  const auto found = States().find(state_id);
  return found == States().end() ? nullptr : found->second;
}

uint64_t Tick() {
  static std::atomic<uint64_t> clock{0};
  return clock.fetch_add(1) + 1;
}

namespace {

// Waits for the run that was started early, if no forward has taken it yet, and for what was sent to a run that was not
// started, and drops both.
void DropEarly(State* state) {
  if (const Replay* early = state->early.exchange(nullptr)) early->Abandon();
  if (const Replay* feeding = state->feeding.exchange(nullptr)) feeding->Abandon();
}

}  // namespace

void ResetStatesInChild() {
  new (&StatesLock()) std::mutex;
  for (const auto& entry : States()) {
    State* state = entry.second;
    new (&state->running) std::mutex;
    state->replays.clear();
    state->early = nullptr;
    state->feeding = nullptr;
    state->begun = 0;
    state->ended = 0;
  }
}

}  // namespace mxtrt

using mxtrt::State;
using mxtrt::StatesLock;

extern "C" int mxtrt_state_set_replays(int64_t state_id, void* const* replays, int32_t count) {
  std::lock_guard<std::mutex> guard(StatesLock());
  State* state = mxtrt::Find(state_id);
  if (state == nullptr) return MXTRT_FAIL;
  // Who takes replays away frees them next.
  mxtrt::DropEarly(state);
  state->replays.clear();
  for (int32_t i = 0; i < count; ++i) state->replays.push_back(static_cast<const mxtrt::Replay*>(replays[i]));
  return MXTRT_OK;
}

extern "C" int mxtrt_state_release(int64_t state_id) {
  std::lock_guard<std::mutex> guard(StatesLock());
  State* state = mxtrt::Find(state_id);
  if (state == nullptr) return MXTRT_OK;
  // A forward that is under way waits for StatesLock while it holds its own: so this one must not wait for it.
  std::unique_lock<std::mutex> running(state->running, std::try_to_lock);
  const bool started = state->early.load() != nullptr || state->feeding.load() != nullptr;
  if (!running.owns_lock() || started) return MXTRT_FAIL;
  state->replays.clear();
  return MXTRT_OK;
}

extern "C" uint64_t mxtrt_state_last_use(int64_t state_id) {
  std::lock_guard<std::mutex> guard(StatesLock());
  const State* state = mxtrt::Find(state_id);
  return state == nullptr ? 0 : state->used.load();
}

extern "C" uint64_t mxtrt_clock(void) { return mxtrt::Tick(); }

extern "C" int mxtrt_state_begin(int64_t state_id, void* const* inputs) {
  std::lock_guard<std::mutex> guard(StatesLock());
  State* state = mxtrt::Find(state_id);
  if (state == nullptr) return MXTRT_FAIL;
  const bool quiet = state->IsQuiet();
  // A forward that never ran, since an array that it depends on had failed, leaves the counts apart for good: then
  // nothing is started early any more, which is slower and still right.
  state->begun.fetch_add(1);
  const mxtrt::Replay* feeding = state->feeding.exchange(nullptr);
  const bool fed = feeding != nullptr && state->fed.load() == feeding->NumFed();
  const mxtrt::Replay* start = nullptr;
  if (inputs != nullptr && quiet)
    for (const mxtrt::Replay* replay : state->replays)
      if (start == nullptr && (fed ? replay == feeding : replay->NumFed() == 0) && replay->CanStartEarly(inputs))
        start = replay;
  if (feeding != nullptr && start != feeding) feeding->Abandon();
  // A run that does not start meets the same error in the forward, which tells.
  if (start == nullptr || start->Start(inputs) != 0) return MXTRT_FAIL;
  state->early.store(start);
  return MXTRT_OK;
}

extern "C" int mxtrt_state_is_under_way(int64_t state_id) {
  std::lock_guard<std::mutex> guard(StatesLock());
  const State* state = mxtrt::Find(state_id);
  return state != nullptr && state->begun.load() != state->ended.load() ? MXTRT_OK : MXTRT_FAIL;
}

extern "C" int mxtrt_state_cancel(int64_t state_id) {
  std::lock_guard<std::mutex> guard(StatesLock());
  if (State* state = mxtrt::Find(state_id)) mxtrt::DropEarly(state);
  return MXTRT_OK;
}
