// Keeps a fork from waiting for itself, and gives the child a library in order.
//
// MXNet's own pthread_atfork handler waits for its engine and joins the engine's threads. subprocess and os.fork() call
// fork() with the GIL held, and a forward of ours needs the GIL: a forward under way then waits for the fork, and the
// fork for the forward. Our handler is registered after MXNet's, so it runs first: it lets go of the GIL until nothing
// is pending, and takes it again. Python's own hook waits once more before that (forks.py), since os.fork() takes locks
// of the interpreter's before fork().
//
// What other threads push between then and the fork is refused with a message: running it would end in that deadlock.

#include "fork.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <new>
#include <vector>

#include "callbacks.h"
#include "copying.h"
#include "spin.h"
#include "states.h"

namespace mxtrt {
namespace {

enum Phase { kNone, kWaiting, kForking };

MxtrtForkApi g_api{};
std::atomic<int> g_phase{kNone};
std::atomic<int> g_calls{0};        // calls of Python by operators, their wait for the GIL included
thread_local int t_calls = 0;       // those of this thread
thread_local bool t_forks = false;  // whether this thread has set the phase

std::mutex& ForkLock() {
  static std::mutex* lock = new std::mutex;
  return *lock;
}

// States that were destroyed while Python could not be told.
std::mutex& DeadLock() {
  static std::mutex* lock = new std::mutex;
  return *lock;
}
std::vector<int64_t>& Dead() {
  static auto* dead = new std::vector<int64_t>;
  return *dead;
}

// Returns the text of a failure that MXNet had kept for the program, or nullptr.
const char* WaitUntilQuiet() {
  const char* error = g_api.wait_all() == 0 ? nullptr : g_api.last_error();
  // MXNet counts an operation as done before it frees what the operation held, which may be a state of ours.
  while (g_calls.load() > 0) usleep(50);
  return error;
}

void BeforeFork() {
  // From an engine's thread MXNet forks without waiting. Without the GIL there is nothing to wait for.
  t_forks = t_calls == 0 && HasCallbacks() && g_api.holds_gil() != 0;
  if (t_forks) {
    void* thread = g_api.release_gil();
    ForkLock().lock();
    for (;;) {
      g_phase = kWaiting;
      if (const char* error = WaitUntilQuiet())
        fprintf(stderr, "mxnet_trt_property: an operation had failed before this process forked: %s\n", error);
      g_api.acquire_gil(thread);
      g_phase = kForking;
      if (g_calls.load() == 0) break;
      thread = g_api.release_gil();
    }
  }
}

void AfterForkInParent() {
  if (!t_forks) return;
  g_phase = kNone;
  ForkLock().unlock();
}

void AfterForkInChild() {
  // The other threads are not here, and what they held they hold for ever.
  new (&DeadLock()) std::mutex;
  ResetStatesInChild();
  ResetSpinningInChild();
  ResetCopyingInChild();
  g_calls = t_calls;
  AfterForkInParent();
}

}  // namespace

EngineCall::EngineCall() {
  ++t_calls;
  g_calls.fetch_add(1);  // before the phase is read: either we see the fork, or the fork sees us
  callbacks_ = Callbacks();
  if (callbacks_ == nullptr) {
    why_not_ = "the interpreter is exiting; this forward was not run";
  } else if (g_phase.load() == kForking) {
    why_not_ =
        "this forward was not run: another thread was forking the process | next step: do not fork while other threads "
        "push forwards, or start processes with multiprocessing's 'spawn'";
  } else {
    DestroyLateInPython(callbacks_);
  }
}

EngineCall::~EngineCall() {
  g_calls.fetch_sub(1);
  --t_calls;
}

void DestroyLateInPython(const MxtrtCallbacks* callbacks) {
  std::vector<int64_t> dead;
  {
    std::lock_guard<std::mutex> guard(DeadLock());
    dead.swap(Dead());
  }
  for (int64_t id : dead) callbacks->destroy(id);
}

void DestroyInPython(int64_t state_id) {
  ++t_calls;
  g_calls.fetch_add(1);
  if (g_phase.load() != kNone) {
    std::lock_guard<std::mutex> guard(DeadLock());
    Dead().push_back(state_id);
  } else if (const MxtrtCallbacks* callbacks = Callbacks()) {
    // At interpreter exit the callbacks are gone, and so is what they would free.
    callbacks->destroy(state_id);
  }
  g_calls.fetch_sub(1);
  --t_calls;
}

}  // namespace mxtrt

extern "C" {

void mxtrt_watch_forks(const MxtrtForkApi* api) {
  static bool watched = false;
  if (watched) return;
  watched = true;
  mxtrt::g_api = *api;
  pthread_atfork(mxtrt::BeforeFork, mxtrt::AfterForkInParent, mxtrt::AfterForkInChild);
}

void mxtrt_skip_exit_handlers(void) {
  on_exit(
      [](int status, void*) {
        fflush(nullptr);
        _exit(status);
      },
      nullptr);
}

int mxtrt_wait_before_fork(void) {
  mxtrt::ErrorText().clear();
  if (mxtrt::t_calls > 0) return MXTRT_OK;
  const char* error = mxtrt::WaitUntilQuiet();
  return error == nullptr ? MXTRT_OK : mxtrt::Fail(error);
}

}  // extern "C"
