// Ctrl-C while an engine is built on a thread of MXNet's.
//
// Python's own handler of SIGINT leaves a note for the main thread, which meanwhile waits inside of MXNet and reads no
// notes. So during a build a handler of ours stands before Python's: it counts, and calls the one it replaced.

#include <signal.h>

#include <atomic>
#include <mutex>

#include "bridge.h"

namespace {

std::atomic<uint64_t> g_count{0};
static_assert(std::atomic<uint64_t>::is_always_lock_free, "a signal handler must not wait for a lock");

std::mutex g_lock;
int g_watchers = 0;
bool g_displaced = false;  // whether somebody has put a handler in the place of ours
struct sigaction g_before;

void Count(int signal, siginfo_t* info, void* context) {
  g_count.fetch_add(1);
  if (g_before.sa_flags & SA_SIGINFO)
    g_before.sa_sigaction(signal, info, context);
  else if (g_before.sa_handler != SIG_DFL && g_before.sa_handler != SIG_IGN)
    g_before.sa_handler(signal);
}

bool IsOurs(const struct sigaction& action) { return (action.sa_flags & SA_SIGINFO) && action.sa_sigaction == Count; }

bool SameHandler(const struct sigaction& a, const struct sigaction& b) {
  return (a.sa_flags & SA_SIGINFO) == (b.sa_flags & SA_SIGINFO) &&
         ((a.sa_flags & SA_SIGINFO) ? a.sa_sigaction == b.sa_sigaction : a.sa_handler == b.sa_handler);
}

bool Install() {
  struct sigaction now;
  if (sigaction(SIGINT, nullptr, &now) != 0) return false;
  if (IsOurs(now)) return true;
  if (!(now.sa_flags & SA_SIGINFO) && (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN)) return false;
  // A handler that took the place of ours may call ours as the one before it: with ours in front they would call each
  // other for ever.
  if (g_displaced && !SameHandler(now, g_before)) return false;
  g_before = now;
  g_displaced = false;
  struct sigaction ours = now;
  ours.sa_flags |= SA_SIGINFO;
  ours.sa_sigaction = Count;
  return sigaction(SIGINT, &ours, nullptr) == 0;
}

void Remove() {
  struct sigaction now;
  if (sigaction(SIGINT, nullptr, &now) != 0) return;
  if (IsOurs(now))
    sigaction(SIGINT, &g_before, nullptr);
  else
    g_displaced = true;
}

}  // namespace

extern "C" {

int mxtrt_watch_interrupts(int on) {
  std::lock_guard<std::mutex> guard(g_lock);
  if (!on) {
    if (--g_watchers == 0) Remove();
    return MXTRT_OK;
  }
  if (!Install()) return MXTRT_FAIL;
  ++g_watchers;
  return MXTRT_OK;
}

uint64_t mxtrt_interrupt_count(void) { return g_count.load(); }

}  // extern "C"
