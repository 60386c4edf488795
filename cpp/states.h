// What this library keeps for each TensorRT node: its weights as last seen, its captured runs, and what is under way.

#ifndef MXNET_TRT_PROPERTY_STATES_H_
#define MXNET_TRT_PROPERTY_STATES_H_

#include <stdint.h>

#include <atomic>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "bridge.h"
#include "replay.h"

namespace mxtrt {

// A weight, and what it was when Python last looked at it.
struct Weight {
  int position;  // among the inputs of the node
  bool auxiliary;
  size_t version = 0;
  const void* data = nullptr;
  std::vector<char> snapshot;  // of an auxiliary array in host memory
};

// A real input, and the shape that the state was made for.
struct Input {
  int position;
  std::vector<int64_t> shape;
};

// What MXNet holds as a CustomStatefulOp*. It never calls a virtual function through it, but reads two flags to see
// whether to warn: so the start of this object has to look like one. Deriving from the class would pull in the
// functions of lib_api.cc.
struct State {
  virtual ~State() = default;
  bool ignore_warn = true;
  bool created = true;

  int64_t id = 0;
  int num_inputs = 0;
  std::vector<Input> inputs;
  std::vector<Weight> weights;
  std::atomic<bool> ready{false};  // whether `weights` says what is in the engine
  std::vector<const Replay*> replays;
  std::mutex running;             // held by a forward, so that its replays are not taken away meanwhile
  std::atomic<uint64_t> used{0};  // the time of the last forward, by Tick()

  // A run that mxtrt_state_begin started, and how many forwards were announced to it and have ended.
  std::atomic<const Replay*> early{nullptr};
  std::atomic<int64_t> begun{0}, ended{0};

  // A run that mxtrt_state_write sends inputs for, and how many it has sent; with StatesLock, but for the forward.
  std::atomic<const Replay*> feeding{nullptr};
  std::atomic<int> fed{0};

  std::vector<MxtrtTensor> in_tensors, out_tensors;  // reused by each call of Python

  // Whether no forward is under way, and the weights were in order last time.
  bool IsQuiet() const { return begun.load() == ended.load() && ready && early.load() == nullptr; }
};

// States by id, for Python to attach replays. Used when states come and go and engines are built, never by a replay.
std::mutex& StatesLock();
std::unordered_map<int64_t, State*>& States();
// The state of an id, or nullptr once it is gone; call with StatesLock.
State* Find(int64_t state_id);

// Counts the forwards of all states, to tell which was used last; returns the count.
uint64_t Tick();

// Takes the captured runs from every state without touching CUDA, whose state no child inherits, and frees the lock of
// the table of states, which another thread of the parent may have held; see fork.cc.
void ResetStatesInChild();

}  // namespace mxtrt

#endif  // MXNET_TRT_PROPERTY_STATES_H_
