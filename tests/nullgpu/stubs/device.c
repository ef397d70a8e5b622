// Memory, counters and capture state of the null GPU.
#include "nullgpu.h"
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096ul
#define HUGE (2ul << 20)
#define SPACE (64ul << 40)   // address space; none of it is memory until it is written to
#define SHARE (SPACE / NULLGPU_DEVICES) // of each device
// Larger copies inside the device are left out: their content is never looked at. With NULLGPU_LARGE_COPIES=0 so are those to and
// from the host, for programs that only size memory: what is not touched takes none.
#define LARGE_COPY (1ul << 20)
#define CAPTURE_UNSUPPORTED 900 // cudaErrorStreamCaptureUnsupported

static _Atomic long counts[NULLGPU_EVENTS];
static _Atomic int capturing;
static _Atomic size_t next[NULLGPU_DEVICES], used[NULLGPU_DEVICES]; // by device
static _Thread_local int current;
static char *base;
static size_t *sizes; // bytes of the allocation that starts at a page

static int number(const char *name, int fallback) {
    const char *value = getenv(name);
    return value ? atoi(value) : fallback;
}

__attribute__((constructor)) static void reserve(void) {
    for (int device = 0; device < NULLGPU_DEVICES; device++) next[device] = device * SHARE + HUGE;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    base = mmap(NULL, SPACE, PROT_READ | PROT_WRITE, flags, -1, 0);
    sizes = mmap(NULL, SPACE / PAGE * sizeof *sizes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (base == MAP_FAILED || sizes == MAP_FAILED) abort();
}

int nullgpu_capability(void) { return number("NULLGPU_CC", 90); }

int nullgpu_shared_memory(void) {
    switch (nullgpu_capability()) {
    case 75: return 64 << 10;
    case 80: return 163 << 10;
    case 90: case 100: return 227 << 10;
    default: return 99 << 10; // 8.6, 8.9, 12.0
    }
}

int nullgpu_devices(void) {
    int devices = number("NULLGPU_DEVICES", 1);
    return devices < NULLGPU_DEVICES ? devices : NULLGPU_DEVICES;
}
int nullgpu_device(void) { return current; }
int nullgpu_use(int device) {
    if (device < 0 || device >= nullgpu_devices()) return 0;
    current = device;
    return 1;
}

size_t nullgpu_total(void) { return (size_t)number("NULLGPU_GIB", 80) << 30; }
size_t nullgpu_free(void) { return nullgpu_total() - atomic_load(&used[current]); }

static size_t whole_pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

static int take(int device, size_t bytes) {
    if (atomic_fetch_add(&used[device], bytes) + bytes <= nullgpu_total()) return 1;
    atomic_fetch_sub(&used[device], bytes);
    return 0;
}

void *nullgpu_reserve(size_t bytes) {
    // Addresses are never used twice, so that fresh memory is zero and a stale pointer reads zeros. The driver aligns to 2 MiB.
    size_t whole = whole_pages(bytes), align = bytes >= HUGE ? HUGE : PAGE, start, end, before = atomic_load(&next[current]);
    do {
        start = (before + align - 1) / align * align;
        end = start + whole;
    } while (!atomic_compare_exchange_weak(&next[current], &before, end));
    if (end > (current + 1) * SHARE) abort();
    return base + start;
}

unsigned long long nullgpu_take(int device, size_t bytes) {
    if (!take(device, bytes)) return 0;
    size_t *handle = nullgpu_handle();
    handle[0] = bytes, handle[1] = device;
    return (unsigned long long)handle;
}

void nullgpu_give(unsigned long long handle) {
    size_t *taken = (size_t *)handle;
    atomic_fetch_sub(&used[taken[1]], taken[0]);
}

void *nullgpu_allocate(size_t bytes) {
    size_t whole = whole_pages(bytes);
    if (!whole) return base;
    if (!take(current, whole)) return NULL;
    char *pointer = nullgpu_reserve(bytes);
    sizes[(pointer - base) / PAGE] = whole;
    return pointer;
}

void nullgpu_release(void *pointer) {
    if (!pointer || nullgpu_owner(pointer) < 0) return;
    size_t *size = &sizes[((char *)pointer - base) / PAGE];
    atomic_fetch_sub(&used[nullgpu_owner(pointer)], *size);
    if (*size) madvise(pointer, *size, MADV_DONTNEED);
    *size = 0;
}

int nullgpu_owner(const void *pointer) {
    const char *at = pointer;
    return at >= base && at < base + SPACE ? (at - base) / SHARE : -1;
}

void nullgpu_copy(void *to, const void *from, size_t bytes) {
    nullgpu_count(NULLGPU_COPY);
    int inside = nullgpu_owner(to) >= 0 && nullgpu_owner(from) >= 0;
    if (bytes >= LARGE_COPY && (inside || !number("NULLGPU_LARGE_COPIES", 1))) return;
    memcpy(to, from, bytes);
}

void nullgpu_fill(void *to, int value, size_t bytes) {
    nullgpu_count(NULLGPU_SET);
    if (bytes < LARGE_COPY) memset(to, value, bytes);
}

void nullgpu_count(enum nullgpu_event event) { atomic_fetch_add(&counts[event], 1); }
long nullgpu_counted(int event) { return event < NULLGPU_EVENTS ? atomic_load(&counts[event]) : 0; }

int nullgpu_wait(void) {
    nullgpu_count(NULLGPU_WAIT);
    return atomic_load(&capturing) ? CAPTURE_UNSUPPORTED : 0;
}

int nullgpu_capturing(void) { return atomic_load(&capturing); }
void nullgpu_capture(int on) { atomic_store(&capturing, on); }
void *nullgpu_handle(void) { return calloc(1, 64); }
