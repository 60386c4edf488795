// The hot path. No Python, no allocation, no lock and no string unless something fails.

#include "replay.h"

#include <string.h>

#include "callbacks.h"

namespace mxtrt {

Replay::Replay(const MxtrtReplaySpec& spec)
    : spec_(spec),
      inputs_(spec.inputs, spec.inputs + spec.num_inputs),
      outputs_(spec.outputs, spec.outputs + spec.num_outputs) {
  for (const MxtrtCopy& copy : inputs_) num_fed_ += copy.fed != 0;
}

namespace {

bool InPlace(const std::vector<MxtrtCopy>& copies, void* const* arrays) {
  for (const MxtrtCopy& copy : copies)
    if (copy.address != nullptr && copy.address != arrays[copy.position]) return false;
  return true;
}

}  // namespace

bool Replay::Matches(void* const* inputs, void* const* outputs) const {
  return InPlace(inputs_, inputs) && InPlace(outputs_, outputs);
}

int Replay::CopyIn(void* const* inputs, void* stream) const {
  for (const MxtrtCopy& copy : inputs_) {
    if (copy.address != nullptr || copy.bytes == 0) continue;
    if (spec_.stream != nullptr) {
      memcpy(copy.staging, inputs[copy.position], copy.bytes);
    } else {
      const int status =
          spec_.cuda.copy_on_device(reinterpret_cast<uint64_t>(copy.staging),
                                    reinterpret_cast<uint64_t>(inputs[copy.position]), copy.bytes, stream);
      if (status != 0) return status;
    }
  }
  return 0;
}

int Replay::CopyOut(void* const* outputs, void* stream) const {
  for (const MxtrtCopy& copy : outputs_) {
    if (copy.address != nullptr || copy.bytes == 0) continue;
    if (spec_.stream != nullptr) {
      memcpy(outputs[copy.position], copy.staging, copy.bytes);
    } else {
      const int status = spec_.cuda.copy_on_device(reinterpret_cast<uint64_t>(outputs[copy.position]),
                                                   reinterpret_cast<uint64_t>(copy.staging), copy.bytes, stream);
      if (status != 0) return status;
    }
  }
  return 0;
}

namespace {

// Makes a context current for the length of a block: MXNet's threads have none of ours, or one of another device.
class Current {
 public:
  explicit Current(const MxtrtReplaySpec& spec) : spec_(spec), status_(spec.cuda.ctx_push(spec.context)) {}
  ~Current() {
    void* popped = nullptr;
    if (status_ == 0) spec_.cuda.ctx_pop(&popped);
  }
  int status() const { return status_; }

 private:
  const MxtrtReplaySpec& spec_;
  int status_;
};

}  // namespace

int Replay::Run(void* const* inputs, void* const* outputs, void* stream) const {
  if (spec_.stream != nullptr) {
    const int status = Start(inputs);
    return status != 0 ? status : Finish(outputs, stream);
  }
  const Current current(spec_);
  return current.status() != 0 ? current.status() : RunOn(inputs, outputs, stream);
}

int Replay::RunOn(void* const* inputs, void* const* outputs, void* stream) const {
  int status = CopyIn(inputs, stream);
  if (status == 0) status = spec_.cuda.graph_launch(spec_.graph, stream);
  if (status == 0) status = CopyOut(outputs, stream);
  if (status == 0 && spec_.idle != nullptr) status = spec_.cuda.event_record(spec_.idle, stream);
  return status;
}

bool Replay::CanStartEarly(void* const* inputs) const {
  if ((spec_.stream == nullptr && spec_.early_stream == nullptr) || !InPlace(inputs_, inputs)) return false;
  // Somebody may still be reading an output of the last forward.
  for (const MxtrtCopy& copy : outputs_)
    if (copy.address != nullptr) return false;
  return true;
}

int Replay::Feed(int position, const void* array, uint64_t offset, uint64_t bytes) const {
  for (const MxtrtCopy& copy : inputs_) {
    if (copy.fed == 0 || copy.position != position || copy.address != array) continue;
    const Current current(spec_);
    if (current.status() != 0) return current.status();
    return spec_.cuda.copy_to_device(reinterpret_cast<uint64_t>(copy.staging) + offset,
                                     static_cast<const char*>(array) + offset, bytes, spec_.stream);
  }
  return kNotFed;
}

int Replay::Start(void* const* inputs) const {
  const Current current(spec_);
  int status = current.status();
  if (spec_.stream != nullptr) {
    if (status == 0) status = CopyIn(inputs, spec_.stream);
    return status != 0 ? status : spec_.cuda.graph_launch(spec_.graph, spec_.stream);
  }
  // The last run of this engine, and the copies of its results, may still be under way on MXNet's stream.
  if (status == 0) status = spec_.cuda.stream_wait_event(spec_.early_stream, spec_.idle, 0);
  return status != 0 ? status : spec_.cuda.graph_launch(spec_.graph, spec_.early_stream);
}

int Replay::Finish(void* const* outputs, void* stream) const {
  const Current current(spec_);
  int status = current.status();
  if (spec_.stream != nullptr) {
    if (status == 0) status = spec_.cuda.stream_synchronize(spec_.stream);
    return status != 0 ? status : CopyOut(outputs, spec_.stream);
  }
  // MXNet waits for its stream behind each operator, or behind a few: what may still be queued there is waited for
  // first. The copies then go right behind the run, which saves a change of streams, and are waited for here.
  if (status == 0) status = spec_.cuda.stream_synchronize(stream);
  if (status == 0) status = CopyOut(outputs, spec_.early_stream);
  return status != 0 ? status : spec_.cuda.stream_synchronize(spec_.early_stream);
}

void Replay::Abandon() const {
  const Current current(spec_);
  if (current.status() == 0) spec_.cuda.stream_synchronize(spec_.stream != nullptr ? spec_.stream : spec_.early_stream);
}

}  // namespace mxtrt

extern "C" {

void* mxtrt_replay_new(const MxtrtReplaySpec* spec) { return new mxtrt::Replay(*spec); }

void mxtrt_replay_free(void* replay) { delete static_cast<mxtrt::Replay*>(replay); }

int mxtrt_replay_run(void* replay, void* const* inputs, void* const* outputs, void* stream) {
  const auto* run = static_cast<const mxtrt::Replay*>(replay);
  if (!run->Matches(inputs, outputs)) {
    mxtrt::ErrorText() = "an array is not where the captured run expects it";
    return MXTRT_FAIL;
  }
  const int status = run->Run(inputs, outputs, stream);
  if (status == 0) return MXTRT_OK;
  return -status;
}

}  // extern "C"
