// libnvidia-ml: torch asks it how many GPUs there are, whether they share memory over a fabric, and who uses memory.
#include <stdlib.h>
#define UNSUPPORTED 3
static char device[8];
int nvmlInit(void) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) {
    const char *devices = getenv("NULLGPU_DEVICES");
    *count = devices ? atoi(devices) : 1;
    return 0;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **out) { *out = device; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) { *out = device + index; return 0; }
int nvmlDeviceGetNvLinkRemoteDeviceType(void *d, unsigned link, int *type) { return UNSUPPORTED; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *d, unsigned link, void *pci) { return UNSUPPORTED; }
int nvmlDeviceGetComputeRunningProcesses(void *d, unsigned *count, void *infos) { *count = 0; return 0; }
int nvmlDeviceGetGpuFabricInfoV(void *d, void *info) { return UNSUPPORTED; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13020; return 0; }
const char *nvmlErrorString(int error) { return "an error of the null GPU"; }
