/* A CUDA driver for tests: "device" memory is host memory, work is done at once, and what is left over is counted.
 * On a stream that is being captured copies, and functions given to fake_record, are kept for cuGraphLaunch instead.
 * There are two devices. Each thread has its stack of contexts, and memory, streams and graphs used in the context of
 * another device than they were made in are refused.
 * FAKE_CUDA_MODE chooses the fault: no_device, init_fails, oom (every allocation of device memory fails),
 * capture_fails, launch_fails. FAKE_CUDA_FAIL is a list such as "cuGraphLaunch:214,cuStreamSynchronize:700": these
 * functions return these codes. With -DOLD_DRIVER some functions of newer drivers are missing. */
#include <pthread.h>
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
static size_t sent; /* bytes that were copied to a device, but by a graph */
static __thread int stack[64], height;

/* What was made on which device, by address. */
#define MOST_OBJECTS 4096
static struct {
  void* address;
  size_t size;
  int device;
} objects[MOST_OBJECTS];
static pthread_mutex_t objects_lock = PTHREAD_MUTEX_INITIALIZER;

static int current(void) { return height > 0 ? stack[height - 1] : -1; }
static void* made(void* address, size_t size) {
  pthread_mutex_lock(&objects_lock);
  for (int i = 0; i < MOST_OBJECTS; ++i)
    if (!objects[i].address) {
      objects[i].address = address;
      objects[i].size = size;
      objects[i].device = current();
      break;
    }
  pthread_mutex_unlock(&objects_lock);
  return address;
}
static void gone(void* address) {
  pthread_mutex_lock(&objects_lock);
  for (int i = 0; i < MOST_OBJECTS; ++i)
    if (objects[i].address == address) objects[i].address = 0;
  pthread_mutex_unlock(&objects_lock);
}
/* Whether an address is of another device than the current one; addresses that nobody made here are the caller's. */
static int foreign(const void* address) {
  int found = 0;
  pthread_mutex_lock(&objects_lock);
  for (int i = 0; i < MOST_OBJECTS; ++i) {
    const char* begin = objects[i].address;
    size_t size = objects[i].size ? objects[i].size : 1;
    if (begin && (const char*)address >= begin && (const char*)address < begin + size)
      found |= objects[i].device != current();
  }
  pthread_mutex_unlock(&objects_lock);
  return found;
}
static size_t used_on(int device) {
  size_t sum = 0;
  pthread_mutex_lock(&objects_lock);
  for (int i = 0; i < MOST_OBJECTS; ++i)
    if (objects[i].address && objects[i].device == device) sum += objects[i].size;
  pthread_mutex_unlock(&objects_lock);
  return sum;
}
/* The code that a function is told to fail with, or 0. */
static int fault(const char* name) {
  const char* list = getenv("FAKE_CUDA_FAIL");
  size_t length = strlen(name);
  for (; list && *list; list = strchr(list, ',') ? strchr(list, ',') + 1 : "")
    if (!strncmp(list, name, length) && list[length] == ':') return atoi(list + length + 1);
  return 0;
}

static int mode(const char* name) {
  const char* value = getenv("FAKE_CUDA_MODE");
  return value && !strcmp(value, name);
}

int cuInit(unsigned flags) {
  if (fault("cuInit")) return fault("cuInit");
  return flags ? 1 : mode("init_fails") ? 999 : mode("no_device") ? 100 : 0;
}
int cuDriverGetVersion(int* version) { *version = 12080; return 0; }
int cuGetErrorName(int code, const char** text) {
  *text = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 100 ? "CUDA_ERROR_NO_DEVICE"
          : code == 46  ? "CUDA_ERROR_DEVICE_UNAVAILABLE" : code == 214 ? "CUDA_ERROR_ECC_UNCORRECTABLE"
          : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_UNKNOWN";
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
int cuCtxPushCurrent_v2(void* context) {
  int device = (int)((int*)context - contexts);
  if (fault("cuCtxPushCurrent_v2")) return fault("cuCtxPushCurrent_v2");
  if (device < 0 || device > 1 || height >= 64) return 201;
  stack[height++] = device;
  __sync_fetch_and_add(&depth, 1);
  return 0;
}
int cuCtxPopCurrent_v2(void** context) {
  if (height <= 0) return 201;
  *context = &contexts[stack[--height]];
  __sync_fetch_and_sub(&depth, 1);
  return 0;
}
int cuCtxSynchronize(void) { return current() < 0 ? 201 : fault("cuCtxSynchronize"); }
int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  if (current() < 0) return 201;
  if (fault("cuMemGetInfo_v2")) return fault("cuMemGetInfo_v2");
  *total = 1 << 30;
  *free_bytes = *total - used_on(current());
  return 0;
}
int cuMemAlloc_v2(uint64_t* address, size_t size) {
  if (current() < 0) return 201; /* as the real one: no context is current */
  if (mode("oom")) return 2;
  if (fault("cuMemAlloc_v2")) return fault("cuMemAlloc_v2");
  size = (size + 511) / 512 * 512;
  *address = (uint64_t)made(aligned_alloc(512, size), size);
  __sync_fetch_and_add(&live_device, 1);
  return *address ? 0 : 2;
}
int cuMemFree_v2(uint64_t address) {
  if (foreign((void*)address)) return 201;
  gone((void*)address);
  free((void*)address); __sync_fetch_and_sub(&live_device, 1);
  return 0;
}
int cuMemHostAlloc(void** address, size_t size, unsigned flags) {
  (void)flags;
  if (fault("cuMemHostAlloc")) return fault("cuMemHostAlloc");
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
  if (current() < 0 || foreign(to) || foreign(from) || (stream && foreign(stream))) return 201;
  return record(stream, work) ? 0 : copy(to, from, size);
}
int cuMemcpyHtoDAsync_v2(uint64_t to, void* from, size_t size, void* s) {
  if (fault("cuMemcpyHtoDAsync_v2")) return fault("cuMemcpyHtoDAsync_v2");
  if (!capturing || s != capturing_stream) __sync_fetch_and_add(&sent, size);
  return async((void*)to, from, size, s);
}
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
  if (foreign(stream)) return 201;
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
#ifndef OLD_DRIVER
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
  (void)flags;
  *executable = malloc(sizeof(struct graph));
  memcpy(*executable, graph, sizeof(struct graph));
  made(*executable, 0);
  __sync_fetch_and_add(&live_graphs, 1);
  return 0;
}
#endif
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
int cuGraphExecDestroy(void* executable) {
  gone(executable);
  free(executable);
  __sync_fetch_and_sub(&live_graphs, 1);
  return 0;
}
int cuGraphLaunch(void* executable, void* stream) {
  struct graph* graph = executable;
  (void)stream;
  if (current() < 0 || foreign(executable) || (stream && foreign(stream))) return 201;
  if (mode("launch_fails")) return 719;
  if (fault("cuGraphLaunch")) return fault("cuGraphLaunch");
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
  if (current() < 0) return 201;
  if (fault("cuStreamCreate")) return fault("cuStreamCreate");
  *stream = made(malloc(1), 0);
  __sync_fetch_and_add(&live_streams, 1);
  return 0;
}
int cuStreamDestroy_v2(void* stream) {
  gone(stream);
  free(stream);
  __sync_fetch_and_sub(&live_streams, 1);
  return 0;
}
int cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
  return foreign(stream) ? 400 : event && !flags ? fault("cuStreamWaitEvent") : 1;
}
int cuEventCreate(void** event, unsigned flags) {
  (void)flags;
  *event = calloc(1, sizeof(struct timespec));
  __sync_fetch_and_add(&live_streams, 1);
  return 0;
}
int cuEventRecord(void* event, void* stream) {
  if (stream && foreign(stream)) return 400;
  return event && !clock_gettime(CLOCK_MONOTONIC, event) ? 0 : 1;
}
int cuEventElapsedTime(float* milliseconds, void* first, void* second) {
  struct timespec *a = first, *b = second;
  *milliseconds = (float)((b->tv_sec - a->tv_sec) * 1e3 + (b->tv_nsec - a->tv_nsec) / 1e6);
  return 0;
}
int cuEventDestroy_v2(void* event) {
  free(event);
  __sync_fetch_and_sub(&live_streams, 1);
  return 0;
}
int cuStreamSynchronize(void* stream) { return stream && foreign(stream) ? 201 : fault("cuStreamSynchronize"); }

int fake_current_device(void) { return current(); }
size_t fake_used_on(int device) { return used_on(device); }
/* What tests ask: contexts pushed and not popped, things not freed, copies made. */
int fake_depth(void) { return depth; }
int fake_live(void) { return live_device + live_host + live_streams + live_graphs + pins; }
void fake_forget(void) {
  live_device = live_host = live_streams = live_graphs = pins = 0;
  memset(objects, 0, sizeof objects);
  memset(pinned, 0, sizeof pinned);
}
int fake_launches(void) { return launches; }
int fake_pins(void) { return pins; }
int fake_copies(void) { return copies; }
size_t fake_sent(void) { return sent; }
