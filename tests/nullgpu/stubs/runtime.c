// libcudart: what torch and bitsandbytes call. Anything that is not here returns success and does nothing (stubs.py).
#include "nullgpu.h"
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#undef cudaGetDeviceProperties
#undef cudaGetDriverEntryPointByVersion
#undef cudaStreamGetCaptureInfo

#define OK cudaSuccess
typedef cudaError_t R;

R cudaGetDeviceCount(int *count) { *count = nullgpu_devices(); return OK; }
R cudaGetDevice(int *device) { *device = nullgpu_device(); return OK; }
R cudaSetDevice(int device) { return nullgpu_use(device) ? OK : cudaErrorInvalidDevice; }
R cudaDriverGetVersion(int *version) { *version = CUDART_VERSION; return OK; }
R cudaRuntimeGetVersion(int *version) { *version = CUDART_VERSION; return OK; }
R cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return OK; }
R cudaDeviceCanAccessPeer(int *can, int device, int peer) { *can = 0; return OK; }
R cudaDeviceGetPCIBusId(char *text, int length, int device) { snprintf(text, length, "0000:00:1%d.0", device); return OK; }

R cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "Null GPU");
    p->major = nullgpu_capability() / 10, p->minor = nullgpu_capability() % 10;
    p->totalGlobalMem = nullgpu_total();
    p->multiProcessorCount = 132, p->warpSize = 32, p->l2CacheSize = 50 << 20;
    p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048;
    p->sharedMemPerBlock = 48 << 10, p->sharedMemPerBlockOptin = nullgpu_shared_memory();
    p->sharedMemPerMultiprocessor = nullgpu_shared_memory() + 1024;
    p->regsPerBlock = p->regsPerMultiprocessor = 1 << 16;
    p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
    return OK;
}

R cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int device) {
    switch (which) {
    case cudaDevAttrComputeCapabilityMajor: *value = nullgpu_capability() / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = nullgpu_capability() % 10; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = nullgpu_shared_memory(); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = nullgpu_shared_memory() + 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = 1 << 16; break;
    default: *value = 0;
    }
    return OK;
}

// Memory.
R cudaMalloc(void **pointer, size_t bytes) {
    *pointer = nullgpu_allocate(bytes);
    return *pointer ? OK : cudaErrorMemoryAllocation;
}
R cudaFree(void *pointer) { nullgpu_release(pointer); return OK; }
R cudaMemGetInfo(size_t *free_, size_t *total) { *free_ = nullgpu_free(); *total = nullgpu_total(); return OK; }
R cudaHostAlloc(void **pointer, size_t bytes, unsigned flags) { return posix_memalign(pointer, 4096, bytes) ? cudaErrorMemoryAllocation : OK; }
R cudaMallocHost(void **pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, 0); }
R cudaMallocManaged(void **pointer, size_t bytes, unsigned flags) { return cudaMalloc(pointer, bytes); }
R cudaFreeHost(void *pointer) { free(pointer); return OK; }
R cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) { nullgpu_copy(to, from, bytes); return nullgpu_wait(); }
R cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s) { nullgpu_copy(to, from, bytes); return OK; }
R cudaMemcpyPeerAsync(void *to, int owner, const void *from, int other, size_t bytes, cudaStream_t s) { nullgpu_copy(to, from, bytes); return OK; }
R cudaMemset(void *to, int value, size_t bytes) { nullgpu_fill(to, value, bytes); return OK; }
R cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s) { nullgpu_fill(to, value, bytes); return OK; }
R cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *pointer) {
    memset(a, 0, sizeof *a);
    int owner = nullgpu_owner(pointer);
    a->type = owner < 0 ? cudaMemoryTypeUnregistered : cudaMemoryTypeDevice;
    a->device = owner < 0 ? 0 : owner;
    a->devicePointer = (void *)pointer;
    return OK;
}

// Streams, events and graphs. A capture records nothing; what may not happen inside of one is an error as on a GPU.
R cudaStreamCreate(cudaStream_t *s) { *s = nullgpu_handle(); return OK; }
R cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) { *s = nullgpu_handle(); return OK; }
R cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) { *s = nullgpu_handle(); return OK; }
R cudaStreamSynchronize(cudaStream_t s) { return nullgpu_wait(); }
R cudaDeviceSynchronize(void) { return nullgpu_wait(); }
R cudaStreamQuery(cudaStream_t s) { return OK; }
R cudaEventCreate(cudaEvent_t *e) { *e = nullgpu_handle(); return OK; }
R cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) { *e = nullgpu_handle(); return OK; }
R cudaEventDestroy(cudaEvent_t e) { free(e); return OK; }
R cudaEventQuery(cudaEvent_t e) { return OK; }
R cudaEventSynchronize(cudaEvent_t e) { return nullgpu_wait(); }
R cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) { *ms = 1; return OK; }
R cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) {
    *status = nullgpu_capturing() ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return OK;
}
R cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *status, unsigned long long *id, cudaGraph_t *graph,
                           const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges, size_t *count) {
    // The older signature ends behind `id`: nothing else may be written.
    *status = nullgpu_capturing() ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    if (nullgpu_capturing() && id) *id = 1;
    return OK;
}
R cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode) { nullgpu_capture(1); return OK; }
R cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph) { nullgpu_capture(0); *graph = nullgpu_handle(); return OK; }
R cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *count) { *count = 1; return OK; }
R cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long flags) { *exec = nullgpu_handle(); return OK; }
R cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long flags) { *exec = nullgpu_handle(); return OK; }
R cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) { nullgpu_count(NULLGPU_GRAPH); return OK; }

// Kernels.
R cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t s) { nullgpu_count(NULLGPU_KERNEL); return OK; }
R cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *f, void **arguments) { nullgpu_count(NULLGPU_KERNEL); return OK; }
// What `<<<…>>>` is compiled to since CUDA 12.
R __cudaGetKernel(cudaKernel_t *kernel, const void *f) { *kernel = (cudaKernel_t)f; return OK; }
R __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t s) { nullgpu_count(NULLGPU_KERNEL); return OK; }
R cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024, a->numRegs = 32;
    // The code that runs on 8.9 was compiled for 8.6; CUB looks its tuning up by what it was compiled for.
    a->ptxVersion = a->binaryVersion = nullgpu_capability() == 89 ? 86 : nullgpu_capability();
    return OK;
}
R cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *f, int size, size_t shared) { *blocks = 8; return OK; }
R cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *f, int size, size_t shared, unsigned flags) { *blocks = 8; return OK; }

const char *cudaGetErrorName(R error) { return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorOfNullGpu"; }
const char *cudaGetErrorString(R error) {
    static char text[64];
    if (error == cudaErrorMemoryAllocation) return "out of memory";
    snprintf(text, sizeof text, "error %d of the null GPU", error);
    return text;
}

void *nullgpu_entry(const char *name);
R cudaGetDriverEntryPointByVersion(const char *name, void **f, unsigned version, unsigned long long flags, enum cudaDriverEntryPointQueryResult *found) {
    *f = nullgpu_entry(name);
    if (found) *found = cudaDriverEntryPointSuccess;
    return OK;
}
