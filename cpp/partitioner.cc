// Registers the partitioner 'TensorRT'. Every decision is made in Python before the pass runs; here a node is
// selected when it has a group, and joined with its neighbours of the same group.
//
// MXNet keeps one property object for the process and reads it again in passes that never ask for a new partition
// (bind with the variable set, get_backend_symbol). So the groups live in one object that is never freed, and Python
// empties it after each pass: a stray pass then takes nothing.

#include <stdlib.h>
#include <string.h>

#include <string>
#include <utility>
#include <vector>

#include "callbacks.h"
#include "mxnet_api.h"

namespace {

struct Groups {
  std::vector<int32_t> group_of_node;
  std::vector<std::pair<std::string, std::string>> node_attrs;

  int32_t Of(int node) const {
    return node >= 0 && static_cast<size_t>(node) < group_of_node.size() ? group_of_node[node] : -1;
  }
  bool Joined(int a, int b) const { return Of(a) >= 0 && Of(a) == Of(b); }
};

// Written and read under the lock that Python holds around a partition.
Groups& TheGroups() {
  static Groups* groups = new Groups;
  return *groups;
}

char* Duplicate(const std::string& text) {
  char* copy = static_cast<char*>(malloc(text.size() + 1));
  memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

// Counts the outputs of a subgraph: the entries of the list behind "heads" in nnvm's JSON. A name cannot hold this
// text, since quotes in names are escaped.
int CountHeads(const char* json) {
  const char* heads = strstr(json, "\"heads\":");
  for (const char* next = heads; next != nullptr; next = strstr(next + 1, "\"heads\":")) heads = next;
  int count = -1, depth = 0;
  for (const char* c = heads == nullptr ? "" : heads; *c != '\0'; ++c) {
    if (*c == '[') ++depth, ++count;
    if (*c == ']' && --depth == 0) break;
  }
  return count > 0 ? count : 0;
}

// MXNet only tests these for null and hands them back; the work is done in the entry points below.
mxnet::ext::MXReturnValue CreateSelectorMarker(const mxnet::ext::Graph*, mxnet::ext::CustomOpSelector**,
                                               const std::unordered_map<std::string, std::string>&) {
  return mxnet::ext::MX_FAIL;
}
mxnet::ext::MXReturnValue ReviewMarker(const mxnet::ext::Graph*, int, bool*,
                                       const std::unordered_map<std::string, std::string>&,
                                       std::unordered_map<std::string, std::string>*) {
  return mxnet::ext::MX_FAIL;
}

}  // namespace

extern "C" void mxtrt_set_groups(const int32_t* groups, int32_t count, const MxtrtAttrs* node_attrs) {
  Groups& target = TheGroups();
  target.group_of_node.assign(groups, groups + (groups == nullptr ? 0 : count));
  target.node_attrs.clear();
  for (int32_t i = 0; node_attrs != nullptr && i < node_attrs->count; ++i)
    target.node_attrs.emplace_back(node_attrs->keys[i], node_attrs->values[i]);
}

MX_INT_RET _partRegSize() { return 1; }

MX_INT_RET _partRegGetCount(int, const char** name) {
  *name = "TensorRT";
  return 1;
}

MX_VOID_RET _partRegGet(int, int, const char** strategy, mxnet::ext::supportedOps_t* supported_ops,
                        mxnet::ext::createSelector_t* create_selector, mxnet::ext::reviewSubgraph_t* review,
                        const char** op_name) {
  *strategy = "TensorRT";
  *supported_ops = nullptr;  // by node name, and names need not be unique: the selector goes by node id
  *create_selector = CreateSelectorMarker;
  *review = ReviewMarker;
  *op_name = "_TensorRT";
}

MX_INT_RET _partCallSupportedOps(mxnet::ext::supportedOps_t, const char*, int, int*, const char* const*,
                                 const char* const*, int) {
  return mxtrt::Fail("mxnet-trt-property selects by node id; MXNet asked for node names");
}

MX_INT_RET _partCallCreateSelector(mxnet::ext::createSelector_t, const char* json, void** selector,
                                   const char* const* keys, const char* const* values, int count) {
  mxtrt::ErrorText().clear();
  mxtrt_set_groups(nullptr, 0, nullptr);
  *selector = &TheGroups();
  const MxtrtCallbacks* callbacks = mxtrt::Callbacks();
  if (callbacks == nullptr) return mxtrt::Fail("mxnet_trt_property is not loaded in this process, or it is exiting");
  MxtrtAttrs options{keys, values, count};
  if (callbacks->decide(json, &options) != MXTRT_OK) return mxtrt::Fail("the partition failed without a message");
  return MXTRT_OK;
}

MX_VOID_RET _partCallSelect(void* selector, int node, int* selected) {
  *selected = static_cast<Groups*>(selector)->Of(node) >= 0;
}

MX_VOID_RET _partCallSelectInput(void* selector, int node, int input, int* selected) {
  *selected = static_cast<Groups*>(selector)->Joined(node, input);
}

MX_VOID_RET _partCallSelectOutput(void* selector, int node, int output, int* selected) {
  *selected = static_cast<Groups*>(selector)->Joined(node, output);
}

MX_VOID_RET _partCallFilter(void*, int* candidates, int count, int** keep, int* num_keep) {
  *keep = static_cast<int*>(malloc(sizeof(int) * static_cast<size_t>(count)));
  memcpy(*keep, candidates, sizeof(int) * static_cast<size_t>(count));
  *num_keep = count;
}

MX_VOID_RET _partCallReset(void*) {}

// Accepts every subgraph and gives its node the attributes of this partition. That this function is registered at
// all also makes MXNet mark each input of the subgraph with isAux, which the converter reads.
//
// MXNet itself writes the shapes of the outputs into __ext_shape__, as "[,]" where it did not infer any, and then fails
// to read the second of them when another subgraph has it as input. So it gets a text that it can read.
MX_INT_RET _partCallReviewSubgraph(mxnet::ext::reviewSubgraph_t, const char* json, int, int* accept, const char* const*,
                                   const char* const*, int, char*** attr_keys, char*** attr_values, int* num_attrs,
                                   const char* const*, int, void* const*, const int64_t* const*, const int*, const int*,
                                   const size_t*, const char* const*, const int*, const char* const*, int, void* const*,
                                   const int64_t* const*, const int*, const int*, const size_t*, const char* const*,
                                   const int*) {
  auto attrs = TheGroups().node_attrs;
  std::string shapes = "[";
  for (int i = CountHeads(json); i > 0; --i) shapes += i > 1 ? "[None]," : "[None]";
  attrs.emplace_back(MX_STR_SHAPE, shapes + "]");
  *accept = 1;
  *num_attrs = static_cast<int>(attrs.size());
  *attr_keys = static_cast<char**>(malloc(sizeof(char*) * attrs.size()));
  *attr_values = static_cast<char**>(malloc(sizeof(char*) * attrs.size()));
  for (size_t i = 0; i < attrs.size(); ++i) {
    (*attr_keys)[i] = Duplicate(attrs[i].first);
    (*attr_values)[i] = Duplicate(attrs[i].second);
  }
  return MXTRT_OK;
}
