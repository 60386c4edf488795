// The C ABI between this library and the Python package (mirrored by mxnet_trt_property/native.py).
//
// Plain C types only. Every struct that crosses carries its size, and both sides compare them when the
// library is loaded. Success is not 0: a ctypes callback that raises, or returns None, gives its caller 0,
// so 0 has to mean failure. All pointers are borrowed for the length of the call unless said otherwise.

#ifndef MXNET_TRT_PROPERTY_BRIDGE_H_
#define MXNET_TRT_PROPERTY_BRIDGE_H_

#include <stddef.h>
#include <stdint.h>

#define MXTRT_ABI_VERSION 11
#define MXTRT_EXPORT __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum MxtrtStatus { MXTRT_FAIL = 0, MXTRT_OK = 1 };

// What an operator input is to the subgraph; chosen by Python when the state is created.
enum MxtrtRole {
  MXTRT_UNUSED = 0,    // never read
  MXTRT_INPUT = 1,     // read at every forward
  MXTRT_WEIGHT = 2,    // frozen into the engine; any change of its version means new values
  MXTRT_AUXILIARY = 3  // a weight that MXNet may count as written by this operator itself
};

typedef struct MxtrtTensor {
  void* data;            // first element, in host or device memory
  const int64_t* shape;  // ndim extents
  uint64_t version;      // grows at each write through MXNet's engine
  int32_t ndim;
  int32_t dtype;   // mshadow's type flag: 0 float32, 1 float64, 2 float16, ...
  int32_t on_gpu;  // 1: device memory of GPU `dev_id`
  int32_t dev_id;
} MxtrtTensor;

// Key and value texts, `count` of each.
typedef struct MxtrtAttrs {
  const char* const* keys;
  const char* const* values;
  int32_t count;
} MxtrtAttrs;

typedef struct MxtrtCallbacks {
  uint32_t abi_version;
  uint32_t struct_size;
  // Partition a graph: calls mxtrt_set_groups before it returns.
  int (*decide)(const char* graph_json, const MxtrtAttrs* options);
  // Make a state for one subgraph: writes its id and one MxtrtRole for each input.
  int (*create)(const char* subgraph_json, const MxtrtAttrs* attrs, int on_gpu, int dev_id,
                const uint32_t* const* shapes, const int* ndims, const int* dtypes, int num_inputs, int64_t* state_id,
                uint8_t* roles);
  // Run a state. `weights_changed`: the weights must be looked at again before the run.
  int (*forward)(int64_t state_id, const MxtrtTensor* inputs, int num_inputs, const MxtrtTensor* outputs,
                 int num_outputs, void* stream, int weights_changed);
  // Forget a state.
  int (*destroy)(int64_t state_id);
} MxtrtCallbacks;

// Functions of the Python interpreter and of MXNet that a fork of the process needs.
typedef struct MxtrtForkApi {
  int (*holds_gil)(void);             // PyGILState_Check
  void* (*release_gil)(void);         // PyEval_SaveThread
  void (*acquire_gil)(void* thread);  // PyEval_RestoreThread
  int (*wait_all)(void);              // MXNDArrayWaitAll; 0 is success
  const char* (*last_error)(void);    // MXGetLastError
} MxtrtForkApi;

// Functions of MXNet's C++ for one kind of inference, in which F is the type of std::function that nnvm keeps for each
// operator: see inference.cc.
typedef struct MxtrtInference {
  void* map;      // nnvm::Op::GetAttr<F>
  void* find;     // nnvm::OpMap<F>::operator[]
  void* set;      // nnvm::Op::set_attr<F>
  void* copy;     // F's copy constructor
  void* manager;  // what an F that holds a plain function is copied and destroyed by ...
  void* invoker;  // ... and called by
  void* helper;   // mxnet::op::DefaultSubgraphOp*Helper: infers through a subgraph
} MxtrtInference;

typedef struct MxtrtInferenceApi {
  void* op;              // nnvm::Op of '_TensorRT'
  void* example;         // nnvm::Op of an operator of MXNet's whose three functions are plain ones
  void* string_new;      // std::string's constructor from a text, of the ABI that MXNet was built with
  void* string_destroy;  // and its destructor
  MxtrtInference shape;
  MxtrtInference type;
  MxtrtInference storage_type;
} MxtrtInferenceApi;

// Functions of the CUDA driver, looked up by Python, which owns the driver library. Status 0 is success.
typedef struct MxtrtCuda {
  int (*ctx_push)(void* context);
  int (*ctx_pop)(void** context);
  int (*graph_launch)(void* graph, void* stream);
  int (*stream_synchronize)(void* stream);
  int (*copy_on_device)(uint64_t target, uint64_t source, size_t bytes, void* stream);
  int (*copy_to_device)(uint64_t target, const void* source, size_t bytes, void* stream);
  int (*event_record)(void* event, void* stream);
  int (*stream_wait_event)(void* stream, void* event, unsigned int flags);
} MxtrtCuda;

// How one array and a captured run come together.
typedef struct MxtrtCopy {
  void* address;  // the run works on the array at this address itself; NULL: on `staging`
  void* staging;  // pinned host memory for host arrays, device memory for GPU arrays and for an input that is fed
  uint64_t bytes;
  int32_t position;  // of the array among the inputs, or among the outputs, of the caller
  int32_t fed;       // 1: mxtrt_state_write copies the input at `address` to `staging`, and the run does not
} MxtrtCopy;

// A run of an engine with its copies, captured in a CUDA graph. Everything is owned by the caller and outlives it.
typedef struct MxtrtReplaySpec {
  MxtrtCuda cuda;
  void* context;  // CUcontext
  void* graph;    // CUgraphExec
  void* stream;   // where host arrays run, waited for; NULL: GPU arrays, on the stream of the call, not waited for
  // GPU arrays only. A run that can start early does so on `early_stream`, and is waited for; `idle` is recorded behind
  // all others, for they work on the same memory on streams of the caller's. NULL where no run starts early.
  void* early_stream;
  void* idle;
  const MxtrtCopy* inputs;
  const MxtrtCopy* outputs;
  int32_t num_inputs;
  int32_t num_outputs;
} MxtrtReplaySpec;

// How an array is waited for awake.
typedef struct MxtrtSpin {
  // MXEnginePushSyncND
  int (*push_sync)(void (*run)(void*, void*), void* param, void (*drop)(void*), void* context, void** reads,
                   int num_reads, void** writes, int num_writes, void* property, int priority, const char* name);
  int64_t most_us;       // then the thread may as well sleep
  int32_t most_threads;  // that do so at once
  int32_t dev_type;      // of the array: its mxnet::Context
  int32_t dev_id;
  int32_t reserved;
} MxtrtSpin;

// What is written to an input of a node.
typedef struct MxtrtWrite {
  void* array;         // the executor's NDArray, in host memory ...
  void* target;        // ... and where it lies
  void* given;         // the caller's NDArray, of the same shape and dtype; NULL: none of MXNet's
  const void* source;  // where the caller's array lies
  uint64_t bytes;
  int32_t position;  // among the inputs of the node
  int32_t helpers;   // threads besides the calling one that may copy
} MxtrtWrite;

MXTRT_EXPORT int mxtrt_abi_version(void);
// Sizes of MxtrtTensor, MxtrtAttrs, MxtrtCallbacks, MxtrtCopy, MxtrtReplaySpec, MxtrtForkApi, MxtrtInferenceApi,
// MxtrtSpin and MxtrtWrite, for the check at load time.
MXTRT_EXPORT void mxtrt_struct_sizes(uint32_t* sizes);
// Copies the table; NULL takes the callbacks away (interpreter exit), after which forwards fail with a message.
MXTRT_EXPORT int mxtrt_set_callbacks(const MxtrtCallbacks* callbacks);
// Stores the text that MXNet shows for the failure of the call in progress on this thread.
MXTRT_EXPORT void mxtrt_set_error(const char* text);
// The partition that the next BuildSubgraph pass applies: a group id for each node, -1 for 'stays with MXNet',
// and the attributes that each new node gets. Copied. With count 0 nothing is taken.
MXTRT_EXPORT void mxtrt_set_groups(const int32_t* groups, int32_t count, const MxtrtAttrs* node_attrs);
// Makes a replay of a captured run (the spec is copied); free it with mxtrt_replay_free once no state has it.
MXTRT_EXPORT void* mxtrt_replay_new(const MxtrtReplaySpec* spec);
MXTRT_EXPORT void mxtrt_replay_free(void* replay);
// Runs a replay on arrays given by address. Returns MXTRT_FAIL, with mxtrt_error(), if an array is not where the
// captured run expects it, and the CUDA driver's error code, negative, if the driver refuses.
MXTRT_EXPORT int mxtrt_replay_run(void* replay, void* const* inputs, void* const* outputs, void* stream);
// The replays that a state's forwards try, first one first, before they call Python; replaces those it had.
MXTRT_EXPORT int mxtrt_state_set_replays(int64_t state_id, void* const* replays, int32_t count);
// Takes a state's replays away; returns MXTRT_FAIL where a forward is under way, or was started early.
MXTRT_EXPORT int mxtrt_state_release(int64_t state_id);
// When the last forward of a state began, and the time now: a count of forwards and calls of mxtrt_clock.
MXTRT_EXPORT uint64_t mxtrt_state_last_use(int64_t state_id);
MXTRT_EXPORT uint64_t mxtrt_clock(void);
// Writes an input of a node, and returns when it is written; what goes to the GPU piece by piece is on its way then,
// for the run that mxtrt_state_begin starts next. Returns MXTRT_FAIL, and has written nothing, where a forward of the
// state is under way, its weights were not in order last time, or something is under way on one of the arrays. Call
// without the GIL.
MXTRT_EXPORT int mxtrt_state_write(int64_t state_id, const MxtrtSpin* spin, const MxtrtWrite* write);
// Says that a forward of the state is about to be pushed, and starts its captured run at once if that is safe: nothing
// of the state is under way, its weights were in order last time, and the run writes staging memory only. The forward
// then waits for this run, or throws it away if a weight has moved or an input is elsewhere. `inputs` holds the address
// of each input of the node (of weights NULL); the caller has waited for what is written to them. NULL: the forward is
// only counted. Returns whether a run was started.
MXTRT_EXPORT int mxtrt_state_begin(int64_t state_id, void* const* inputs);
// Drops the run that mxtrt_state_begin started, if no forward has taken it yet, and what mxtrt_state_write has sent:
// the announced forward may not come.
MXTRT_EXPORT int mxtrt_state_cancel(int64_t state_id);
// Whether a forward was announced by mxtrt_state_begin that has not ended.
MXTRT_EXPORT int mxtrt_state_is_under_way(int64_t state_id);
// Waits for an NDArray, which something pushed before writes, without sleeping. Returns MXTRT_FAIL where that did not
// come in time, or too many threads do so. An error on the array is left there: ask MXNet for it. Call without the GIL.
MXTRT_EXPORT int mxtrt_spin(const MxtrtSpin* spin, void* array);
// Makes forks of this process safe, from the first call on; see fork.cc.
MXTRT_EXPORT void mxtrt_watch_forks(const MxtrtForkApi* api);
// Waits until no forward of the process is pending, for a fork that is about to happen; call without the GIL. Returns
// MXTRT_FAIL, with mxtrt_error(), if one of MXNet's operations had failed: MXNet does not report that failure again.
MXTRT_EXPORT int mxtrt_wait_before_fork(void);
// Ends this process, when it ends by exit(), before the exit handlers and destructors registered so far; output is
// flushed.
MXTRT_EXPORT void mxtrt_skip_exit_handlers(void);
// Counts SIGINT (Ctrl-C) from the call with 1 to the one with 0, before the handler that stands then gets it. Calls may
// nest. Returns MXTRT_FAIL, and needs no call with 0, where the signal is ignored or ends the process.
MXTRT_EXPORT int mxtrt_watch_interrupts(int on);
// How many were counted since the library was loaded.
MXTRT_EXPORT uint64_t mxtrt_interrupt_count(void);
// Gives '_TensorRT' functions of inference that lose no memory, once a process. Returns MXTRT_FAIL, with mxtrt_error()
// and everything as it was, where anything is not as inference.cc expects it.
MXTRT_EXPORT int mxtrt_replace_inference(const MxtrtInferenceApi* api);
// The error text of this thread.
MXTRT_EXPORT const char* mxtrt_error(void);
// How many times Python was called since the library was loaded: a replayed forward makes no call.
MXTRT_EXPORT uint64_t mxtrt_callback_count(void);

#ifdef __cplusplus
}
#endif

#endif  // MXNET_TRT_PROPERTY_BRIDGE_H_
