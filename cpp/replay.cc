// The hot path. No Python, no allocation, no lock and no string unless something fails.

#include "replay.h"

#include <string.h>

#include <string>

#include "callbacks.h"

namespace mxtrt {

Replay::Replay(const MxtrtReplaySpec& spec)
    : spec_(spec),
      inputs_(spec.inputs, spec.inputs + spec.num_inputs),
      outputs_(spec.outputs, spec.outputs + spec.num_outputs) {}

bool Replay::Matches(void* const* inputs, void* const* outputs) const {
  for (const MxtrtCopy& copy : inputs_)
    if (copy.address != nullptr && copy.address != inputs[copy.position]) return false;
  for (const MxtrtCopy& copy : outputs_)
    if (copy.address != nullptr && copy.address != outputs[copy.position]) return false;
  return true;
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

int Replay::Run(void* const* inputs, void* const* outputs, void* stream) const {
  const bool host_arrays = spec_.stream != nullptr;
  void* const target = host_arrays ? spec_.stream : stream;
  // MXNet's threads have no current context of ours, or one of another device.
  int status = spec_.cuda.ctx_push(spec_.context);
  if (status != 0) return status;
  status = CopyIn(inputs, target);
  if (status == 0) status = spec_.cuda.graph_launch(spec_.graph, target);
  if (status == 0 && host_arrays) status = spec_.cuda.stream_synchronize(target);
  if (status == 0) status = CopyOut(outputs, target);
  void* popped = nullptr;
  spec_.cuda.ctx_pop(&popped);
  return status;
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
  mxtrt::ErrorText() = "the CUDA driver refused to replay a captured run: error " + std::to_string(status);
  return MXTRT_FAIL;
}

}  // extern "C"
