// A captured run of an engine, replayed without Python: compare addresses, copy what is not in place, launch, wait.

#ifndef MXNET_TRT_PROPERTY_REPLAY_H_
#define MXNET_TRT_PROPERTY_REPLAY_H_

#include <vector>

#include "bridge.h"

namespace mxtrt {

class Replay {
 public:
  explicit Replay(const MxtrtReplaySpec& spec);

  // Whether every array that the captured run works on in place is where it was.
  bool Matches(void* const* inputs, void* const* outputs) const;

  // Runs once. Returns 0, or the CUDA driver's error code. Allocates nothing.
  int Run(void* const* inputs, void* const* outputs, void* stream) const;

  // How many inputs it does not copy to the GPU itself: they must be fed before it starts.
  int NumFed() const { return num_fed_; }
  // Queues the copy of a stretch of an input to the GPU. Returns 0, the CUDA driver's error code, or kNotFed where the
  // array is no input that is fed.
  static constexpr int kNotFed = -1;
  int Feed(int position, const void* array, uint64_t offset, uint64_t bytes) const;

  // The two halves of a run that starts before its outputs are known. `stream` is that of the call, for GPU arrays.
  bool CanStartEarly(void* const* inputs) const;
  int Start(void* const* inputs) const;
  int Finish(void* const* outputs, void* stream) const;
  // Waits for a run that was started, and leaves its results where they are.
  void Abandon() const;

 private:
  int RunOn(void* const* inputs, void* const* outputs, void* stream) const;
  int CopyIn(void* const* inputs, void* stream) const;
  int CopyOut(void* const* outputs, void* stream) const;

  MxtrtReplaySpec spec_;
  std::vector<MxtrtCopy> inputs_, outputs_;
  int num_fed_ = 0;
};

}  // namespace mxtrt

#endif  // MXNET_TRT_PROPERTY_REPLAY_H_
