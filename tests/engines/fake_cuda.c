/* A CUDA driver for tests: "device" memory is host memory, work is done at once, and what is left over is counted.
 * On a stream that is being captured copies, and functions given to fake_record, are kept for cuGraphLaunch instead.
 * FAKE_CUDA_MODE chooses the fault: no_device, init_fails, oom (every allocation of device memory fails),
 * capture_fails, launch_fails. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct work {
  void *to, *from;
  size_t size;
  void (*function)(void);
};
struct graph {
  struct work list[64];
  int count;
};
static struct graph* capturing; /* one capture at a time, as the code under test sees to it */
static void* capturing_stream;
static int live_graphs, launches, pins;
static struct {
  char *begin, *end;
} pinned[64];

static int contexts[2], depth, live_device, live_host, live_streams, copies;
static size_t used;

static int mode(const char* name) {
  const char* value = getenv("FAKE_CUDA_MODE");
  return value && !strcmp(value, name);
}

int cuInit(unsigned flags) { return flags ? 1 : mode("init_fails") ? 999 : mode("no_device") ? 100 : 0; }
int cuDriverGetVersion(int* version) { *version = 12080; return 0; }
int cuGetErrorName(int code, const char** text) {
  *text = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN";
  return 0;
}
int cuGetErrorString(int code, const char** text) {
  *text = code == 2 ? "out of memory" : code == 100 ? "no CUDA-capable device is detected" : "unknown error";
  return 0;
}
int cuDeviceGetCount(int* count) { *count = 2; return 0; }
int cuDeviceGet(int* device, int index) { *device = index; return index < 0 || index > 1 ? 101 : 0; }
int cuDeviceGetName(char* name, int size, int device) { (void)device; strncpy(name, "Fake H100", size); return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  (void)device;
  *value = attribute == 75 ? 9 : 0;
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { (void)device; *bytes = 1 << 30; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { *context = &contexts[device]; return 0; }
int cuCtxPushCurrent_v2(void* context) { __sync_fetch_and_add(&depth, 1); return context ? 0 : 201; }
int cuCtxPopCurrent_v2(void** context) { *context = 0; return __sync_fetch_and_sub(&depth, 1) > 0 ? 0 : 201; }
int cuCtxSynchronize(void) { return 0; }
int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) { *total = 1 << 30; *free_bytes = *total - used; return 0; }
int cuMemAlloc_v2(uint64_t* address, size_t size) {
  if (depth <= 0) return 201; /* as the real one: no context is current */
  if (mode("oom")) return 2;
  size = (size + 511) / 512 * 512;
  *address = (uint64_t)aligned_alloc(512, size);
  __sync_fetch_and_add(&live_device, 1);
  return *address ? 0 : 2;
}
int cuMemFree_v2(uint64_t address) { free((void*)address); __sync_fetch_and_sub(&live_device, 1); return 0; }
int cuMemHostAlloc(void** address, size_t size, unsigned flags) {
  (void)flags;
  *address = malloc(size);
  __sync_fetch_and_add(&live_host, 1);
  return 0;
}
int cuMemFreeHost(void* address) { free(address); __sync_fetch_and_sub(&live_host, 1); return 0; }
static int copy(void* target, const void* source, size_t size) {
  if (!target || !source) return 1;
  memcpy(target, source, size);
  __sync_fetch_and_add(&copies, 1);
  return 0;
}
int cuMemcpyHtoD_v2(uint64_t to, void* from, size_t size) { return copy((void*)to, from, size); }
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t size) { return copy(to, (void*)from, size); }
int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t size) { return copy((void*)to, (void*)from, size); }
static int record(void* stream, struct work work) {
  if (!capturing || stream != capturing_stream) return 0;
  capturing->list[capturing->count++] = work;
  return 1;
}
static int async(void* to, void* from, size_t size, void* stream) {
  struct work work = {to, from, size, 0};
  return record(stream, work) ? 0 : copy(to, from, size);
}
int cuMemcpyHtoDAsync_v2(uint64_t to, void* from, size_t size, void* s) { return async((void*)to, from, size, s); }
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t size, void* s) { return async(to, (void*)from, size, s); }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, void* s) {
  return async((void*)to, (void*)from, size, s);
}
int fake_record(void* stream, void (*function)(void)) {
  struct work work = {0, 0, 0, function};
  return record(stream, work);
}
int cuStreamBeginCapture_v2(void* stream, int how) {
  (void)how;
  if (mode("capture_fails")) return 900;
  capturing = calloc(1, sizeof(struct graph));
  capturing_stream = stream;
  return 0;
}
int cuStreamEndCapture(void* stream, void** graph) {
  (void)stream;
  *graph = capturing;
  capturing = 0;
  return 0;
}
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
  (void)flags;
  *executable = malloc(sizeof(struct graph));
  memcpy(*executable, graph, sizeof(struct graph));
  __sync_fetch_and_add(&live_graphs, 1);
  return 0;
}
/* Three edges between made-up nodes; the second one lets its kernel start early. */
static int removed_edge, added_edge;
int cuGraphGetEdges_v2(void* graph, void** from, void** to, unsigned char* data, size_t* count) {
  (void)graph;
  for (int i = 0; from && i < 3; ++i) {
    from[i] = (void*)(uintptr_t)(i + 1);
    to[i] = (void*)(uintptr_t)(i + 2);
    memset(data + 8 * i, 0, 8);
    data[8 * i + 2] = i == 1;
  }
  *count = 3;
  return 0;
}
int cuGraphRemoveDependencies_v2(void* graph, void** from, void** to, unsigned char* data, size_t count) {
  (void)graph;
  (void)to;
  removed_edge = (int)(uintptr_t)from[0];
  return count == 1 && data && data[2] == 1 ? 0 : 1;
}
int cuGraphAddDependencies_v2(void* graph, void** from, void** to, unsigned char* data, size_t count) {
  (void)graph;
  (void)to;
  added_edge = (int)(uintptr_t)from[0];
  return count == 1 && !data ? 0 : 1;
}
int fake_removed_edge(void) { return removed_edge; }
int fake_added_edge(void) { return added_edge; }
int cuGraphDestroy(void* graph) { free(graph); return 0; }
int cuGraphExecDestroy(void* executable) { free(executable); __sync_fetch_and_sub(&live_graphs, 1); return 0; }
int cuGraphLaunch(void* executable, void* stream) {
  struct graph* graph = executable;
  (void)stream;
  if (depth <= 0) return 201;
  if (mode("launch_fails")) return 719;
  for (int i = 0; i < graph->count; ++i) {
    struct work* work = &graph->list[i];
    if (work->function) work->function();
    else copy(work->to, work->from, work->size);
  }
  __sync_fetch_and_add(&launches, 1);
  return 0;
}
int cuMemHostRegister_v2(void* address, size_t size, unsigned flags) {
  char *begin = (char*)((uintptr_t)address & ~4095ul), *end = (char*)address + size;
  int slot = -1;
  (void)flags;
  for (int i = 0; i < 64; ++i) {
    if (!pinned[i].begin) slot = i;
    else if (begin < pinned[i].end && pinned[i].begin < end) return 712; /* already registered */
  }
  if (slot < 0) return 2;
  pinned[slot].begin = begin;
  pinned[slot].end = end;
  __sync_fetch_and_add(&pins, 1);
  return 0;
}
int cuMemHostUnregister(void* address) {
  char* begin = (char*)((uintptr_t)address & ~4095ul);
  for (int i = 0; i < 64; ++i)
    if (pinned[i].begin == begin) {
      pinned[i].begin = 0;
      __sync_fetch_and_sub(&pins, 1);
      return 0;
    }
  return 713;
}
int cuStreamCreate(void** stream, unsigned flags) {
  (void)flags;
  *stream = malloc(1);
  __sync_fetch_and_add(&live_streams, 1);
  return 0;
}
int cuStreamDestroy_v2(void* stream) { free(stream); __sync_fetch_and_sub(&live_streams, 1); return 0; }
int cuStreamSynchronize(void* stream) { (void)stream; return 0; }
int cuEventCreate(void** event, unsigned flags) {
  (void)flags;
  *event = calloc(1, sizeof(struct timespec));
  __sync_fetch_and_add(&live_streams, 1);
  return 0;
}
int cuEventRecord(void* event, void* stream) { (void)stream; return clock_gettime(CLOCK_MONOTONIC, event) ? 1 : 0; }
int cuEventElapsedTime(float* milliseconds, void* first, void* second) {
  struct timespec *a = first, *b = second;
  *milliseconds = (float)((b->tv_sec - a->tv_sec) * 1e3 + (b->tv_nsec - a->tv_nsec) / 1e6);
  return 0;
}
int cuEventDestroy_v2(void* event) { free(event); __sync_fetch_and_sub(&live_streams, 1); return 0; }

/* What tests ask: contexts pushed and not popped, things not freed, copies made. */
int fake_depth(void) { return depth; }
int fake_live(void) { return live_device + live_host + live_streams + live_graphs + pins; }
int fake_launches(void) { return launches; }
int fake_pins(void) { return pins; }
int fake_copies(void) { return copies; }
