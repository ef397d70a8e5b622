// The null GPU: CUDA devices, alike, on which memory exists, copies copy, and kernels do nothing.
//
// Three files fill one library, which is preloaded as libcuda.so.1: driver.c (libcuda), runtime.c (libcudart), and a file of
// trivial functions that stubs.py writes for whatever else torch and bitsandbytes import. device.c is what they share.
#pragma once
#include <stddef.h>

enum nullgpu_event { NULLGPU_KERNEL, NULLGPU_PRODUCT, NULLGPU_COPY, NULLGPU_SET, NULLGPU_WAIT, NULLGPU_GRAPH, NULLGPU_EVENTS };

#define NULLGPU_DEVICES 8 // at most

int nullgpu_devices(void);       // NULLGPU_DEVICES, by default one
int nullgpu_device(void);        // that of this thread
int nullgpu_use(int device);     // 0 if there is none such
int nullgpu_capability(void);    // 75, 80, 89, 90, 100 or 120: NULLGPU_CC
int nullgpu_shared_memory(void); // bytes of shared memory that a block may ask for, by capability
size_t nullgpu_total(void);      // bytes of memory of each device: NULLGPU_GIB
size_t nullgpu_free(void);

void *nullgpu_allocate(size_t bytes);       // zeroed, or NULL when the device is full
void *nullgpu_reserve(size_t bytes);        // addresses only
unsigned long long nullgpu_take(int device, size_t bytes); // memory only: a handle, or 0 when the device is full
void nullgpu_give(unsigned long long handle);
void nullgpu_release(void *pointer);
int nullgpu_owner(const void *pointer); // the device whose memory the address is in, or -1
void nullgpu_copy(void *to, const void *from, size_t bytes);
void nullgpu_fill(void *to, int value, size_t bytes);

void nullgpu_count(enum nullgpu_event event);
int nullgpu_wait(void); // counts a wait; an error code while a stream is being captured
int nullgpu_capturing(void);
void nullgpu_capture(int on);
void *nullgpu_handle(void);
