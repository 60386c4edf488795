// Inference through the subgraph of a '_TensorRT' node, without the memory that MXNet's own loses.
//
// For every library operator that runs a subgraph, MXNet's c_api.cc registers three functions, of shapes, dtypes and
// storage types. Each copies its inputs' values into a vector on the heap, lets a helper infer through the subgraph
// with it, assigns the values back and never frees the vector: 56 bytes for each input, at each inference of each bind.
// The helpers themselves assign to what is unknown only and raise where values contradict each other, so the copy does
// nothing but leak. Ours hand the vectors themselves to the same helpers. (The copy also leaves out a node's 'extra
// inputs', which only a partitioner can add, and ours adds none.)
//
// They are registered as nnvm provides for, at a higher level, by functions of libmxnet's that Python looks up by name.
// An object of C++'s library is only ever made, copied and destroyed by libmxnet's own code, since ours is built with
// another library. What is known of their layout is that of GCC 4.8, which built every x86-64 wheel of MXNet 1.9.1 (the
// name of `invoker` has its calling convention in it: later ones pass a reference to each argument). It is checked
// before anything is changed, by an operator whose functions are known.
//
// The helpers raise C++ exceptions, which MXNet catches on the other side. A frame of ours in between has nothing to
// clean up, so nothing of it takes part: whatever finds its way through it needs no more than its unwind table.

#include <dlfcn.h>

#include "callbacks.h"

namespace {

// libstdc++'s std::function.
struct Function {
  void* functor[2];  // of a plain function: its address
  void* manager;
  void* invoker;
};
static_assert(sizeof(Function) == 32, "std::function is 32 bytes in every libstdc++ for 64-bit machines");

// std::shared_ptr<nnvm::Symbol>
struct Subgraph {
  const void* symbol;
  const void* count;
};

// The front of nnvm::NodeAttrs, from where the subgraphs are read.
struct NodeAttrs {
  const void* op;
  const void* name;       // std::string, a pointer in the ABI before C++11
  const void* dict[6];    // std::unordered_map; from GCC 5 on one more
  const void* parsed[4];  // dmlc::any
  const Subgraph* first;  // std::vector
  const Subgraph* last;
  const Subgraph* capacity;
};
static_assert(sizeof(NodeAttrs) == 120, "no padding");

// One of the three: what was registered before, and the helper that does the work.
struct Replaced {
  Function original;
  void* helper;
};

const void* g_op = nullptr;
Replaced g_shape, g_type, g_storage_type;

// Returns the subgraph of a node, or nullptr where it is not a node as partitions make them.
inline const void* SubgraphOf(const NodeAttrs* attrs) {
  if (attrs->op != g_op || attrs->first == nullptr || attrs->last != attrs->first + 1 || attrs->capacity < attrs->last)
    return nullptr;
  return attrs->first->symbol;
}

// mxnet::FInferShape and nnvm::FInferType: only the vectors' elements differ, which nobody looks at here.
template <Replaced* replaced>
bool Infer(const NodeAttrs* attrs, void* inputs, void* outputs) {
  using Helper = bool (*)(const void*, void*, void*);
  using Original = bool (*)(const Function*, const NodeAttrs*, void*, void*);
  if (const void* subgraph = SubgraphOf(attrs))
    return reinterpret_cast<Helper>(replaced->helper)(subgraph, inputs, outputs);
  return reinterpret_cast<Original>(replaced->original.invoker)(&replaced->original, attrs, inputs, outputs);
}

// mxnet::FInferStorageType
bool InferStorageType(const NodeAttrs* attrs, int device, void* dispatch, void* inputs, void* outputs) {
  using Helper = bool (*)(const void*, int, void*, void*, void*);
  using Original = bool (*)(const Function*, const NodeAttrs*, int, void*, void*, void*);
  if (const void* subgraph = SubgraphOf(attrs))
    return reinterpret_cast<Helper>(g_storage_type.helper)(subgraph, device, dispatch, inputs, outputs);
  return reinterpret_cast<Original>(g_storage_type.original.invoker)(&g_storage_type.original, attrs, device, dispatch,
                                                                     inputs, outputs);
}

// A std::string of the ABI that MXNet was built with: a pointer.
class Text {
 public:
  Text(const MxtrtInferenceApi& api, const char* text) : destroy_(api.string_destroy) {
    const char allocator = 0;  // an empty object
    reinterpret_cast<void (*)(void*, const char*, const char*)>(api.string_new)(&text_, text, &allocator);
  }
  ~Text() { reinterpret_cast<void (*)(void*)>(destroy_)(&text_); }
  Text(const Text&) = delete;
  Text& operator=(const Text&) = delete;
  const void* get() const { return &text_; }

 private:
  void* destroy_;
  const void* text_ = nullptr;
};

bool IsInImageOf(const void* address, const void* other) {
  Dl_info a, b;
  return address != nullptr && dladdr(address, &a) != 0 && dladdr(other, &b) != 0 && a.dli_fbase == b.dli_fbase;
}

// One of the three functions of '_TensorRT', on its way to be replaced.
class Slot {
 public:
  Slot(const MxtrtInferenceApi& api, const char* name, const MxtrtInference& of, void* ours, Replaced* replaced)
      : api_(api), name_(api, name), of_(of), ours_(ours), replaced_(replaced) {}

  // Returns what is not as expected, or nullptr.
  const char* Problem() const {
    const Function* example = Of(api_.example);
    if (example->manager != of_.manager || example->invoker != of_.invoker ||
        !IsInImageOf(example->functor[0], of_.helper))
      return "MXNet's functions of inference are laid out in another way";
    const Function* now = Of(api_.op);
    if (now->invoker == of_.invoker || !IsInImageOf(now->invoker, of_.helper) || !IsInImageOf(now->manager, of_.helper))
      return "something else has replaced MXNet's functions of inference";
    return nullptr;
  }

  void Replace() const {
    using Copy = void (*)(Function*, const Function*);
    using Set = void* (*)(void*, const void*, const Function*, int);
    reinterpret_cast<Copy>(of_.copy)(&replaced_->original, Of(api_.op));
    replaced_->helper = of_.helper;
    const Function function{{ours_, nullptr}, of_.manager, of_.invoker};
    reinterpret_cast<Set>(of_.set)(api_.op, name_.get(), &function, kLevel);
  }

 private:
  // MXNet registers an operator of a library at 10 or, where it was known before, at 11.
  static constexpr int kLevel = 20;

  const Function* Of(const void* op) const {
    using Map = const void* (*)(const void*);
    using Find = const Function* (*)(const void*, const void*);
    return reinterpret_cast<Find>(of_.find)(reinterpret_cast<Map>(of_.map)(name_.get()), op);
  }

  const MxtrtInferenceApi& api_;
  Text name_;
  const MxtrtInference& of_;
  void* ours_;
  Replaced* replaced_;
};

}  // namespace

extern "C" int mxtrt_replace_inference(const MxtrtInferenceApi* api) {
  mxtrt::ErrorText().clear();
  if (g_op != nullptr) return MXTRT_OK;
  const Slot slots[] = {
      {*api, "FInferShape", api->shape, reinterpret_cast<void*>(Infer<&g_shape>), &g_shape},
      {*api, "FInferType", api->type, reinterpret_cast<void*>(Infer<&g_type>), &g_type},
      {*api, "FInferStorageType", api->storage_type, reinterpret_cast<void*>(InferStorageType), &g_storage_type}};
  for (const Slot& slot : slots)
    if (const char* problem = slot.Problem()) return mxtrt::Fail(problem);
  g_op = api->op;
  for (const Slot& slot : slots) slot.Replace();
  return MXTRT_OK;
}
