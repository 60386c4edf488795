// Copies between host arrays so that a GPU finds the result in memory.
//
// A GPU that fetches what threads have just written gets it from the caches of as many cores, which takes longer than
// from memory: 5 MB that 16 threads wrote take it 120 us more. So the copy goes past the caches. One thread alone
// would be slow at that; helpers sleep until there is something to copy.

#include "copying.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "relax.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace mxtrt {
namespace {

constexpr size_t kPiece = 256 << 10;     // what a thread copies at once
constexpr size_t kStretch = 1024 << 10;  // what is told at once: each time costs some microseconds

// Writes past the caches where the processor can.
void CopyPiece(char* target, const char* source, size_t bytes) {
#if defined(__SSE2__)
  const size_t head = std::min<size_t>(-reinterpret_cast<uintptr_t>(target) & 63, bytes);
  memcpy(target, source, head);
  size_t i = head;
  for (; i + 64 <= bytes; i += 64) {
    const auto* from = reinterpret_cast<const __m128i*>(source + i);
    auto* to = reinterpret_cast<__m128i*>(target + i);
    const __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
    const __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, a);
    _mm_stream_si128(to + 1, b);
    _mm_stream_si128(to + 2, c);
    _mm_stream_si128(to + 3, d);
  }
  memcpy(target + i, source + i, bytes - i);
  _mm_sfence();
#else
  memcpy(target, source, bytes);
#endif
}

// One copy, of which each thread takes the next piece until there are none.
class Job {
 public:
  Job(char* target, const char* source, size_t bytes)
      : target_(target),
        source_(source),
        bytes_(bytes),
        count_((bytes + kPiece - 1) / kPiece),
        done_(new std::atomic<bool>[count_]) {
    for (size_t i = 0; i < count_; ++i) done_[i].store(false, std::memory_order_relaxed);
  }

  // Copies a piece, if one is left.
  bool CopyNext() {
    const size_t i = next_.fetch_add(1);
    if (i >= count_) return false;
    const size_t begin = i * kPiece;
    CopyPiece(target_ + begin, source_ + begin, std::min(kPiece, bytes_ - begin));
    done_[i].store(true, std::memory_order_release);
    return true;
  }

  // How many more threads it has pieces for.
  int MostHelpers() const { return static_cast<int>(std::min<size_t>(count_, INT_MAX)) - 1; }

  // How many bytes are written without a gap; the caller's thread only.
  size_t Written() {
    while (known_ < count_ && done_[known_].load(std::memory_order_acquire)) ++known_;
    return std::min(known_ * kPiece, bytes_);
  }

 private:
  char* target_;
  const char* source_;
  size_t bytes_;
  size_t count_;
  std::unique_ptr<std::atomic<bool>[]> done_;
  std::atomic<size_t> next_{0};
  size_t known_ = 0;
};

// Where helpers find a job; each copy that is under way has one.
struct Slot {
  std::atomic<bool> taken{false};
  std::atomic<Job*> job{nullptr};
  std::atomic<int> working{0};  // helpers that may hold `job`
};

Slot g_slots[8];
std::atomic<uint32_t> g_round{0};  // changes with each job: what helpers sleep on
std::atomic<bool> g_starting{false};
std::atomic<int> g_helpers{0};  // that were started

void Help(Slot* slot) {
  // Counted before the job is read: either it is gone by then, or its owner waits.
  slot->working.fetch_add(1);
  if (Job* job = slot->job.load())
    while (job->CopyNext()) {
    }
  slot->working.fetch_sub(1);
}

void* HelpForEver(void*) {
  for (;;) {
    const uint32_t round = g_round.load();
    for (Slot& slot : g_slots) Help(&slot);
    syscall(SYS_futex, &g_round, FUTEX_WAIT_PRIVATE, round, nullptr, nullptr, 0);
  }
  return nullptr;
}

// Starts what is missing of so many helpers; fewer where the system gives no more threads.
void Start(int helpers) {
  if (g_helpers.load() >= helpers || g_starting.exchange(true)) return;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the program's threads
  for (pthread_t thread; g_helpers.load() < helpers; g_helpers.fetch_add(1)) {
    if (pthread_create(&thread, nullptr, HelpForEver, nullptr) != 0) break;
    pthread_detach(thread);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  g_starting.store(false);
}

Slot* Take() {
  for (Slot& slot : g_slots)
    if (!slot.taken.exchange(true)) return &slot;
  return nullptr;
}

}  // namespace

void CopyToMemory(char* target, const char* source, size_t bytes, int helpers, Written written, void* user) {
  Job job(target, source, bytes);
  Slot* slot = helpers > 0 && bytes > kPiece ? Take() : nullptr;
  if (slot != nullptr) {
    Start(helpers);
    slot->job.store(&job);
    g_round.fetch_add(1);
    syscall(SYS_futex, &g_round, FUTEX_WAKE_PRIVATE, job.MostHelpers(), nullptr, nullptr, 0);
  }
  size_t told = 0;
  for (bool left = true; told < bytes;) {
    left = left && job.CopyNext();
    const size_t now = job.Written();
    if (now - told >= kStretch || now == bytes) {
      written(user, told, now - told);
      told = now;
    } else if (!left) {
      Relax();
    }
  }
  if (slot == nullptr) return;
  slot->job.store(nullptr);
  while (slot->working.load() != 0) Relax();
  slot->taken.store(false);
}

void ResetCopyingInChild() {
  for (Slot& slot : g_slots) {
    slot.job = nullptr;
    slot.working = 0;
    slot.taken = false;
  }
  g_starting = false;
  g_helpers = 0;
}

}  // namespace mxtrt
