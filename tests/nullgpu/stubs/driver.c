// libcuda: what torch's allocator, Triton and the real libraries' start-up ask of the driver.
#define _GNU_SOURCE
#include "nullgpu.h"
#include <cuda.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK CUDA_SUCCESS
typedef CUresult R;
static char context[NULLGPU_DEVICES];
static R nothing(void) { return OK; }

R cuDriverGetVersion(int *version) { *version = CUDA_VERSION; return OK; }
R cuDeviceGetCount(int *count) { *count = nullgpu_devices(); return OK; }
R cuDeviceGet(CUdevice *device, int ordinal) { *device = ordinal; return OK; }
R cuDeviceGetName(char *name, int length, CUdevice d) { snprintf(name, length, "Null GPU"); return OK; }
R cuDeviceTotalMem_v2(size_t *bytes, CUdevice d) { *bytes = nullgpu_total(); return OK; }
R cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice d) { memset(uuid, 1 + d, sizeof *uuid); return OK; }
R cuDeviceGetPCIBusId(char *text, int length, CUdevice d) { snprintf(text, length, "0000:00:1%d.0", d); return OK; }
R cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice d) {
    switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = nullgpu_capability() / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = nullgpu_capability() % 10; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 48 << 10; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = nullgpu_shared_memory(); break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *value = nullgpu_shared_memory() + 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: *value = 2048; break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *value = 1 << 16; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: *value = 1980000; break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: *value = 2619000; break;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: *value = 5120; break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = 50 << 20; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *value = 2147483647; break;
    default: *value = which == CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING || which == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED;
    }
    return OK;
}
R cuDevicePrimaryCtxGetState(CUdevice d, unsigned *flags, int *active) { *flags = 0; *active = 1; return OK; }
R cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) { *c = (CUcontext)(context + d); return OK; }
R cuCtxGetCurrent(CUcontext *c) { *c = (CUcontext)(context + nullgpu_device()); return OK; }
R cuCtxSetCurrent(CUcontext c) { return nullgpu_use((char *)c - context) ? OK : CUDA_ERROR_INVALID_CONTEXT; }
R cuCtxGetDevice(CUdevice *d) { *d = nullgpu_device(); return OK; }
R cuCtxGetApiVersion(CUcontext c, unsigned *version) { *version = 3020; return OK; }
R cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return OK; }
R cuCtxSynchronize(void) { return nullgpu_wait(); }
R cuStreamSynchronize(CUstream s) { return nullgpu_wait(); }
R cuStreamCreate(CUstream *s, unsigned flags) { *s = nullgpu_handle(); return OK; }
R cuStreamCreateWithPriority(CUstream *s, unsigned flags, int priority) { *s = nullgpu_handle(); return OK; }
R cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *status) { *status = nullgpu_capturing(); return OK; }
R cuEventCreate(CUevent *e, unsigned flags) { *e = nullgpu_handle(); return OK; }
R cuEventElapsedTime_v2(float *ms, CUevent a, CUevent b) { *ms = 1; return OK; }

// Memory. Of the virtual kind (expandable segments), a reservation is the address and a handle is only a size.
static R allocated(void *p, CUdeviceptr *out) { *out = (CUdeviceptr)p; return p ? OK : CUDA_ERROR_OUT_OF_MEMORY; }
R cuMemAlloc_v2(CUdeviceptr *p, size_t bytes) { return allocated(nullgpu_allocate(bytes), p); }
R cuMemFree_v2(CUdeviceptr p) { nullgpu_release((void *)p); return OK; }
R cuMemGetInfo_v2(size_t *free_, size_t *total) { *free_ = nullgpu_free(); *total = nullgpu_total(); return OK; }
R cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) { nullgpu_copy((void *)to, from, bytes); return OK; }
R cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) { nullgpu_copy(to, (void *)from, bytes); return OK; }
R cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream s) { nullgpu_copy((void *)to, (void *)from, bytes); return OK; }
R cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream s) { nullgpu_fill((void *)to, value, bytes); return OK; }
R cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *p, CUmemAllocationGranularity_flags f) { *bytes = 2 << 20; return OK; }
R cuMemAddressReserve(CUdeviceptr *p, size_t bytes, size_t align, CUdeviceptr at, unsigned long long flags) { return allocated(nullgpu_reserve(bytes), p); }
R cuMemCreate(CUmemGenericAllocationHandle *h, size_t bytes, const CUmemAllocationProp *p, unsigned long long flags) {
    *h = nullgpu_take(p->location.id, bytes);
    return *h ? OK : CUDA_ERROR_OUT_OF_MEMORY;
}
R cuMemRelease(CUmemGenericAllocationHandle h) { nullgpu_give(h); return OK; }
R cuPointerGetAttribute(void *value, CUpointer_attribute which, CUdeviceptr p) {
    if (which == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) *(CUdeviceptr *)value = p;
    return OK;
}

// Kernels.
R cuModuleLoadData(CUmodule *m, const void *image) { *m = nullgpu_handle(); return OK; }
R cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) { *f = nullgpu_handle(); return OK; }
R cuLibraryLoadData(CUlibrary *l, const void *code, CUjit_option *a, void **b, unsigned n, CUlibraryOption *c, void **d, unsigned k) { *l = nullgpu_handle(); return OK; }
R cuLibraryGetKernel(CUkernel *k, CUlibrary l, const char *name) { *k = nullgpu_handle(); return OK; }
R cuLibraryGetModule(CUmodule *m, CUlibrary l) { *m = nullgpu_handle(); return OK; }
R cuKernelGetFunction(CUfunction *f, CUkernel k) { *f = (CUfunction)k; return OK; }
R cuFuncGetAttribute(int *value, CUfunction_attribute which, CUfunction f) {
    *value = which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : which == CU_FUNC_ATTRIBUTE_NUM_REGS ? 32 : 0;
    return OK;
}
R cuOccupancyMaxActiveClusters(int *n, CUfunction f, const CUlaunchConfig *c) { *n = 1; return OK; }
R cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream s, void **a, void **e) { nullgpu_count(NULLGPU_KERNEL); return OK; }
R cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **a, void **e) { nullgpu_count(NULLGPU_KERNEL); return OK; }
R cuGetErrorName(R error, const char **text) { *text = "CUDA_ERROR_OF_NULL_GPU"; return OK; }
R cuGetErrorString(R error, const char **text) { *text = "an error of the null GPU"; return OK; }

// Look-up by name; what is not known does nothing.
void *nullgpu_entry(const char *name) {
    static const char *const endings[] = {"_v2", "", "_v3"};
    char full[128];
    for (int i = 0; i < 3; i++) {
        snprintf(full, sizeof full, "%s%s", name, endings[i]);
        void *found = dlsym(RTLD_DEFAULT, full);
        if (found) return found;
    }
    return (void *)nothing;
}
R cuGetProcAddress_v2(const char *name, void **f, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *found) {
    *f = nullgpu_entry(name);
    if (found) *found = CU_GET_PROC_ADDRESS_SUCCESS;
    return OK;
}
R cuGetExportTable(const void **out, const CUuuid *id) {
    static size_t table[512];
    table[0] = sizeof table;
    for (int i = 1; i < 512; i++) table[i] = (size_t)nothing;
    *out = table;
    return OK;
}
