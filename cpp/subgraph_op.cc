// Registers the operator '_TensorRT': a state for each subgraph, and its forward.
//
// A forward looks at the version of every weight, since MXNet's programs may write any array at any time, and calls
// Python with `weights_changed` when one moved. It reads the raw arrays that MXNet passes; nothing is allocated per
// weight.

#include <string.h>

#include <string>
#include <vector>

#include "callbacks.h"
#include "mxnet_api.h"

namespace {

// What MXNet holds as a CustomStatefulOp*. It never calls a virtual function through it, but reads two flags to see
// whether to warn: so the start of this object has to look like one. Deriving from the class would pull in the
// functions of lib_api.cc.
struct State {
  virtual ~State() = default;
  bool ignore_warn = true;
  bool created = true;

  int64_t id = 0;
  std::vector<uint8_t> roles;
  std::vector<std::vector<int64_t>> shapes;  // of the inputs the state was made for
  // What the weights were when Python last looked at them.
  std::vector<uint64_t> seen_version;
  std::vector<const void*> seen_data;
  std::vector<std::vector<char>> snapshots;  // of auxiliary arrays in host memory
  bool ready = false;

  std::vector<MxtrtTensor> inputs, outputs;  // reused by each forward
};

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Winvalid-offsetof"
static_assert(offsetof(State, ignore_warn) == offsetof(mxnet::ext::CustomStatefulOp, ignore_warn),
              "State must start as mxnet::ext::CustomStatefulOp does");
static_assert(offsetof(State, created) == offsetof(State, ignore_warn) + 1 &&
                  sizeof(mxnet::ext::CustomStatefulOp) == 2 * sizeof(void*),
              "mxnet::ext::CustomStatefulOp has grown fields that State lacks");
#pragma GCC diagnostic pop

size_t ByteSize(const MxtrtTensor& tensor) {
  // mshadow's type flags 0 to 7: float32, float64, float16, uint8, int32, int8, int64, bool.
  static const size_t kSizes[] = {4, 8, 2, 1, 4, 1, 8, 1};
  size_t bytes = tensor.dtype >= 0 && tensor.dtype < 8 ? kSizes[tensor.dtype] : 0;
  for (int32_t d = 0; d < tensor.ndim; ++d) bytes *= static_cast<size_t>(tensor.shape[d]);
  return bytes;
}

// Whether an auxiliary array holds what it held when Python last looked. Through a CachedOp MXNet counts every forward
// as a write of the auxiliary arrays, through an executor it does not, and the operator cannot tell which it is in:
// the contents decide. They are small (the means and variances of ResNet-50 are 212 kB).
bool SameContents(const MxtrtTensor& tensor, const std::vector<char>& snapshot) {
  return !tensor.on_gpu && snapshot.size() == ByteSize(tensor) &&
         memcmp(tensor.data, snapshot.data(), snapshot.size()) == 0;
}

// Whether any weight may hold new values.
//
// Version 0 means an array that was never written through the engine: MXNet shows one when it had to convert the
// array from MKLDNN's layout into a temporary for this call, so it says nothing and Python compares the contents.
bool WeightsMoved(const State& state) {
  if (!state.ready) return true;
  for (size_t i = 0; i < state.roles.size(); ++i) {
    if (state.roles[i] < MXTRT_WEIGHT) continue;
    const MxtrtTensor& now = state.inputs[i];
    if (now.version == state.seen_version[i] && now.version != 0 && now.data == state.seen_data[i]) continue;
    if (state.roles[i] == MXTRT_AUXILIARY && SameContents(now, state.snapshots[i])) continue;
    return true;
  }
  return false;
}

void Remember(State* state, bool moved) {
  for (size_t i = 0; i < state->roles.size(); ++i) {
    const MxtrtTensor& now = state->inputs[i];
    state->seen_version[i] = now.version;
    state->seen_data[i] = now.data;
    if (moved && state->roles[i] == MXTRT_AUXILIARY && !now.on_gpu) {
      const char* data = static_cast<const char*>(now.data);
      state->snapshots[i].assign(data, data + ByteSize(now));
    }
  }
}

void Describe(std::vector<MxtrtTensor>* tensors, const int64_t** shapes, const int* ndims, void** data,
              const int* dtypes, const size_t* versions, const char** dev_types, const int* dev_ids) {
  for (size_t i = 0; i < tensors->size(); ++i) {
    (*tensors)[i] =
        MxtrtTensor{data[i], shapes[i], versions[i], ndims[i], dtypes[i], dev_types[i][0] == 'g' ? 1 : 0, dev_ids[i]};
  }
}

bool ShapesFit(const State& state) {
  for (size_t i = 0; i < state.roles.size(); ++i) {
    const MxtrtTensor& now = state.inputs[i];
    const std::vector<int64_t>& made_for = state.shapes[i];
    if (static_cast<size_t>(now.ndim) != made_for.size()) return false;
    if (memcmp(now.shape, made_for.data(), sizeof(int64_t) * made_for.size()) != 0) return false;
  }
  return true;
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

  State* state = new State;
  state->roles.assign(num_inputs, MXTRT_INPUT);
  state->seen_version.assign(num_inputs, 0);
  state->seen_data.assign(num_inputs, nullptr);
  state->snapshots.resize(num_inputs);
  for (int i = 0; i < num_inputs; ++i) state->shapes.emplace_back(shapes[i], shapes[i] + ndims[i]);
  const MxtrtAttrs attrs{keys, values, count};
  if (callbacks->create(json, &attrs, dev_type[0] == 'g' ? 1 : 0, dev_id, shapes, ndims, dtypes, num_inputs, &state->id,
                        state->roles.data()) != MXTRT_OK) {
    delete state;
    return mxtrt::Fail("the TensorRT node could not be set up, and no message says why");
  }
  *state_out = state;
  return MXTRT_OK;
}

MX_VOID_RET _opCallDestroyOpState(void* state_op) {
  State* state = static_cast<State*>(state_op);
  // At interpreter exit the callbacks are gone, and so is what they would free.
  if (const MxtrtCallbacks* callbacks = mxtrt::Callbacks()) callbacks->destroy(state->id);
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
  if (!is_forward)
    return mxtrt::Fail(
        "a TensorRT node was asked for gradients; it is for inference only | next step: bind the symbol with "
        "gradients without the TensorRT backend, or unset MXNET_SUBGRAPH_BACKEND while training");
  if (static_cast<size_t>(num_in) != state->roles.size())
    return mxtrt::Fail("a TensorRT node was run with another number of inputs than it was made for");
  for (int i = 0; i < num_in; ++i)
    if (in_stypes[i] != 0) return mxtrt::Fail("a TensorRT node was given a sparse input array; it reads dense ones");
  for (int i = 0; i < num_out; ++i)
    if (out_stypes[i] != 0) return mxtrt::Fail("a TensorRT node was given a sparse output array; it writes dense ones");

  const MxtrtCallbacks* callbacks = mxtrt::Callbacks();
  if (callbacks == nullptr) return mxtrt::Fail("the interpreter is exiting; this forward was not run");
  state->inputs.resize(num_in);
  state->outputs.resize(num_out);
  Describe(&state->inputs, in_shapes, in_ndims, in_data, in_dtypes, in_versions, in_dev_type, in_dev_id);
  Describe(&state->outputs, out_shapes, out_ndims, out_data, out_dtypes, out_versions, out_dev_type, out_dev_id);
  if (!ShapesFit(*state)) return mxtrt::Fail("a TensorRT node was run with other input shapes than it was made for");
  const bool moved = WeightsMoved(*state);
  state->ready = false;  // until this forward has succeeded: after a failure the weights are looked at again
  if (callbacks->forward(state->id, state->inputs.data(), num_in, state->outputs.data(), num_out, stream, moved) !=
      MXTRT_OK)
    return mxtrt::Fail("the TensorRT node failed, and no message says why");
  Remember(state, moved);
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
