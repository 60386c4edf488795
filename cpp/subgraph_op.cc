// Registers the operator '_TensorRT': a state for each subgraph, and its forward.
//
// A forward looks at version and address of every weight, since MXNet's programs may write any array at any time. If
// none moved and a captured run fits the arrays, it is replayed here; otherwise Python is called, with a flag that says
// whether weights moved. Only raw arrays are read, and nothing is allocated: MXNet passes 260 inputs for a ResNet-50.

#include <string.h>

#include <mutex>
#include <string>
#include <vector>

#include "callbacks.h"
#include "fork.h"
#include "mxnet_api.h"
#include "replay.h"
#include "states.h"

namespace {

using mxtrt::Input;
using mxtrt::State;
using mxtrt::States;
using mxtrt::StatesLock;
using mxtrt::Weight;

// The arrays of one forward, as MXNet passes them.
struct Arrays {
  const int64_t** shapes;
  const int* ndims;
  void** data;
  const int* dtypes;
  const size_t* versions;
  const char** dev_types;
  const int* dev_ids;
  const int* stypes;
  int count;

  bool OnGpu(int i) const { return dev_types[i][0] == 'g'; }

  size_t Bytes(int i) const {
    // mshadow's type flags 0 to 7: float32, float64, float16, uint8, int32, int8, int64, bool.
    static const size_t kSizes[] = {4, 8, 2, 1, 4, 1, 8, 1};
    size_t bytes = dtypes[i] >= 0 && dtypes[i] < 8 ? kSizes[dtypes[i]] : 0;
    for (int d = 0; d < ndims[i]; ++d) bytes *= static_cast<size_t>(shapes[i][d]);
    return bytes;
  }

  void Describe(std::vector<MxtrtTensor>* tensors) const {
    tensors->resize(count);
    for (int i = 0; i < count; ++i)
      (*tensors)[i] = MxtrtTensor{data[i], shapes[i], versions[i], ndims[i], dtypes[i], OnGpu(i) ? 1 : 0, dev_ids[i]};
  }

  bool AllDense() const {
    for (int i = 0; i < count; ++i)
      if (stypes[i] != 0) return false;
    return true;
  }
};

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Winvalid-offsetof"
static_assert(offsetof(State, ignore_warn) == offsetof(mxnet::ext::CustomStatefulOp, ignore_warn),
              "State must start as mxnet::ext::CustomStatefulOp does");
static_assert(offsetof(State, created) == offsetof(State, ignore_warn) + 1 &&
                  sizeof(mxnet::ext::CustomStatefulOp) == 2 * sizeof(void*),
              "mxnet::ext::CustomStatefulOp has grown fields that State lacks");
#pragma GCC diagnostic pop

// Whether an auxiliary array holds what it held when Python last looked. Through a CachedOp MXNet counts every forward
// as a write of the auxiliary arrays, through an executor it does not, and the operator cannot tell which it is in:
// the contents decide. They are small (the means and variances of ResNet-50 are 212 kB).
bool SameContents(const Weight& weight, const Arrays& in) {
  const int i = weight.position;
  return !in.OnGpu(i) && weight.snapshot.size() == in.Bytes(i) &&
         memcmp(in.data[i], weight.snapshot.data(), weight.snapshot.size()) == 0;
}

// Whether any weight may hold new values.
//
// Version 0 means an array that was never written through the engine: MXNet shows one when it had to convert the
// array from MKLDNN's layout into a temporary for this call, so it says nothing and Python compares the contents.
bool WeightsMoved(State* state, const Arrays& in) {
  if (!state->ready) return true;
  for (Weight& weight : state->weights) {
    const size_t version = in.versions[weight.position];
    const void* data = in.data[weight.position];
    if (version == weight.version && version != 0 && data == weight.data) continue;
    if (!weight.auxiliary || !SameContents(weight, in)) return true;
    weight.version = version;
    weight.data = data;
  }
  return false;
}

void Remember(State* state, const Arrays& in) {
  for (Weight& weight : state->weights) {
    const int i = weight.position;
    weight.version = in.versions[i];
    weight.data = in.data[i];
    if (weight.auxiliary && !in.OnGpu(i)) {
      const char* data = static_cast<const char*>(in.data[i]);
      weight.snapshot.assign(data, data + in.Bytes(i));
    }
  }
}

bool ShapesFit(const State& state, const Arrays& in) {
  for (const Input& input : state.inputs) {
    const size_t ndim = input.shape.size();
    if (static_cast<size_t>(in.ndims[input.position]) != ndim) return false;
    if (memcmp(in.shapes[input.position], input.shape.data(), sizeof(int64_t) * ndim) != 0) return false;
  }
  return true;
}

// A run that the driver refused is not tried again: Python then runs the engine, and tells what is wrong.
bool ForgetReplays(State* state) {
  std::lock_guard<std::mutex> guard(StatesLock());
  state->replays.clear();
  return false;
}

// One forward: owns the run that was started early for it, and counts it as ended, however it ends.
class Forward {
 public:
  explicit Forward(State* state) : state_(state), guard_(state->running), early_(state->early.exchange(nullptr)) {
    state->used.store(mxtrt::Tick(), std::memory_order_relaxed);
  }
  ~Forward() {
    AbandonEarly();
    state_->ended.fetch_add(1);
  }

  const mxtrt::Replay* TakeEarly(const Arrays& in, const Arrays& out) {
    if (early_ == nullptr || !early_->Matches(in.data, out.data)) return nullptr;
    const mxtrt::Replay* early = early_;
    early_ = nullptr;
    return early;
  }

  // Waits for the early run, whose memory the next run uses too.
  void AbandonEarly() {
    if (early_ != nullptr) early_->Abandon();
    early_ = nullptr;
  }

 private:
  State* state_;
  std::lock_guard<std::mutex> guard_;
  const mxtrt::Replay* early_;
};

// Finishes the run that was started early, or replays a captured run that fits the arrays.
bool Replayed(State* state, Forward* forward, const Arrays& in, const Arrays& out, void* stream) {
  if (const mxtrt::Replay* early = forward->TakeEarly(in, out))
    return early->Finish(out.data, stream) == 0 || ForgetReplays(state);
  forward->AbandonEarly();
  for (const mxtrt::Replay* replay : state->replays)
    if (replay->NumFed() == 0 && replay->Matches(in.data, out.data))
      return replay->Run(in.data, out.data, stream) == 0 || ForgetReplays(state);
  return false;
}

const char* g_contexts[] = {"cpu", "gpu"};
mxnet::ext::createOpState_t g_create_markers[] = {nullptr, nullptr};

}  // namespace

MX_INT_RET _opRegSize() { return 1; }

MX_VOID_RET _opRegGet(int, const char** name, int* is_subgraph_op, const char*** forward_ctx,
                      mxnet::ext::fcomp_t** forward_fp, int* forward_count, const char*** backward_ctx,
                      mxnet::ext::fcomp_t** backward_fp, int* backward_count, const char*** create_op_ctx,
                      mxnet::ext::createOpState_t** create_op_fp, int* create_op_count, mxnet::ext::parseAttrs_t* parse,
                      mxnet::ext::inferType_t* type, mxnet::ext::inferSType_t* stype, mxnet::ext::inferShape_t* shape,
                      mxnet::ext::mutateInputs_t* mutate) {
  *name = "_TensorRT";
  *is_subgraph_op = 1;
  *forward_ctx = *backward_ctx = nullptr;
  *forward_fp = *backward_fp = nullptr;
  *forward_count = *backward_count = 0;
  *create_op_ctx = g_contexts;
  *create_op_fp = g_create_markers;
  *create_op_count = 2;
  // A subgraph operator infers through its subgraph.
  *parse = nullptr;
  *type = nullptr;
  *stype = nullptr;
  *shape = nullptr;
  *mutate = nullptr;
}

MX_INT_RET _opCallCreateOpState(mxnet::ext::createOpState_t, const char* const* keys, const char* const* values,
                                int count, const char* dev_type, int dev_id, unsigned int** shapes, int* ndims,
                                int num_inputs, const int* dtypes, void** state_out) {
  mxtrt::ErrorText().clear();
  const MxtrtCallbacks* callbacks = mxtrt::Callbacks();
  if (callbacks == nullptr) return mxtrt::Fail("mxnet_trt_property is not loaded in this process, or it is exiting");
  const char* json = nullptr;
  for (int i = 0; i < count; ++i)
    if (strcmp(keys[i], MX_STR_SUBGRAPH_SYM_JSON) == 0) json = values[i];
  if (json == nullptr) return mxtrt::Fail("a _TensorRT node without its subgraph: it can only come from a partition");

  mxtrt::DestroyLateInPython(callbacks);

  State* state = new State;
  state->num_inputs = num_inputs;
  std::vector<uint8_t> roles(num_inputs, MXTRT_INPUT);
  const MxtrtAttrs attrs{keys, values, count};
  if (callbacks->create(json, &attrs, dev_type[0] == 'g' ? 1 : 0, dev_id, shapes, ndims, dtypes, num_inputs, &state->id,
                        roles.data()) != MXTRT_OK) {
    delete state;
    return mxtrt::Fail("the TensorRT node could not be set up, and no message says why");
  }
  for (int i = 0; i < num_inputs; ++i) {
    if (roles[i] == MXTRT_INPUT) state->inputs.push_back({i, std::vector<int64_t>(shapes[i], shapes[i] + ndims[i])});
    if (roles[i] >= MXTRT_WEIGHT) {
      state->weights.emplace_back();
      state->weights.back().position = i;
      state->weights.back().auxiliary = roles[i] == MXTRT_AUXILIARY;
    }
  }
  {
    std::lock_guard<std::mutex> guard(StatesLock());
    States()[state->id] = state;
  }
  *state_out = state;
  return MXTRT_OK;
}

MX_VOID_RET _opCallDestroyOpState(void* state_op) {
  State* state = static_cast<State*>(state_op);
  {
    std::lock_guard<std::mutex> guard(StatesLock());
    States().erase(state->id);
  }
  mxtrt::DestroyInPython(state->id);
  delete state;
}

MX_INT_RET _opCallFStatefulCompute(int is_forward, void* state_op, const int64_t** in_shapes, int* in_ndims,
                                   void** in_data, int* in_dtypes, size_t* in_versions, const char** in_dev_type,
                                   int* in_dev_id, int num_in, const int64_t** out_shapes, int* out_ndims,
                                   void** out_data, int* out_dtypes, size_t* out_versions, const char** out_dev_type,
                                   int* out_dev_id, int num_out, mxnet::ext::xpu_malloc_t, void*,
                                   mxnet::ext::xpu_malloc_t, void*, void* stream, mxnet::ext::sparse_malloc_t, void*,
                                   int* in_stypes, int* out_stypes, void**, void**, void**, void**, int64_t*, int64_t*,
                                   int64_t*, int64_t*, void*, void*) {
  State* state = static_cast<State*>(state_op);
  mxtrt::ErrorText().clear();
  Forward forward(state);
  if (!is_forward)
    return mxtrt::Fail(
        "a TensorRT node was asked for gradients; it is for inference only | next step: bind the symbol with "
        "gradients without the TensorRT backend, or unset MXNET_SUBGRAPH_BACKEND while training");
  if (num_in != state->num_inputs)
    return mxtrt::Fail("a TensorRT node was run with another number of inputs than it was made for");
  const Arrays in{in_shapes, in_ndims, in_data, in_dtypes, in_versions, in_dev_type, in_dev_id, in_stypes, num_in};
  const Arrays out{out_shapes,   out_ndims,  out_data,   out_dtypes, out_versions,
                   out_dev_type, out_dev_id, out_stypes, num_out};
  if (!in.AllDense() || !out.AllDense())
    return mxtrt::Fail("a TensorRT node was given a sparse array; it reads and writes dense ones");
  if (!ShapesFit(*state, in))
    return mxtrt::Fail("a TensorRT node was run with other input shapes than it was made for");
  const bool moved = WeightsMoved(state, in);
  if (!moved && Replayed(state, &forward, in, out, stream)) return MXTRT_OK;
  forward.AbandonEarly();

  mxtrt::EngineCall call;
  if (!call.MayCallPython()) return mxtrt::Fail(call.why_not());
  in.Describe(&state->in_tensors);
  out.Describe(&state->out_tensors);
  state->ready = false;  // until this forward has succeeded: after a failure the weights are looked at again
  if (call.callbacks()->forward(state->id, state->in_tensors.data(), num_in, state->out_tensors.data(), num_out, stream,
                                moved) != MXTRT_OK)
    return mxtrt::Fail("the TensorRT node failed, and no message says why");
  if (moved) Remember(state, in);
  state->ready = true;
  return MXTRT_OK;
}

// ---- entry points for kinds of operators that this library does not have ----

MX_INT_RET _opCallParseAttrs(mxnet::ext::parseAttrs_t, const char* const*, const char* const*, int, int*, int*) {
  return mxtrt::Fail("_TensorRT takes no attributes from users; it can only come from a partition");
}

MX_INT_RET _opCallInferShape(mxnet::ext::inferShape_t, const char* const*, const char* const*, int, unsigned int**,
                             int*, int, unsigned int***, int**, unsigned int***, int**, int) {
  return mxtrt::Fail("_TensorRT infers shapes through its subgraph");
}

MX_INT_RET _opCallInferType(mxnet::ext::inferType_t, const char* const*, const char* const*, int, int*, int, int*,
                            int) {
  return mxtrt::Fail("_TensorRT infers types through its subgraph");
}

MX_INT_RET _opCallInferSType(mxnet::ext::inferSType_t, const char* const*, const char* const*, int, int*, int, int*,
                             int) {
  return mxtrt::Fail("_TensorRT infers storage types through its subgraph");
}

MX_INT_RET _opCallMutateInputs(mxnet::ext::mutateInputs_t, const char* const*, const char* const*, int, int**, int*) {
  return mxtrt::Fail("_TensorRT names its mutable inputs through its subgraph");
}

MX_INT_RET _opCallFCompute(mxnet::ext::fcomp_t, const char* const*, const char* const*, int, const int64_t**, int*,
                           void**, int*, size_t*, const char**, int*, int, const int64_t**, int*, void**, int*, size_t*,
                           const char**, int*, int, mxnet::ext::xpu_malloc_t, void*, mxnet::ext::xpu_malloc_t, void*,
                           void*, mxnet::ext::sparse_malloc_t, void*, int*, int*, void**, void**, void**, void**,
                           int64_t*, int64_t*, int64_t*, int64_t*, void*, void*) {
  return mxtrt::Fail("_TensorRT keeps a state; MXNet called it as an operator without one");
}
