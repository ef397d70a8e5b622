// Memory, counters and capture state of the null GPU.
#include "nullgpu.h"
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096ul
#define HUGE (2ul << 20)
#define SPACE (8ul << 40)    // address space; none of it is memory until it is written to
#define LARGE_COPY (1ul << 20) // larger copies inside the device are left out: their content is never looked at
#define CAPTURE_UNSUPPORTED 900 // cudaErrorStreamCaptureUnsupported

static _Atomic long counts[NULLGPU_EVENTS];
static _Atomic int capturing;
static _Atomic size_t next = HUGE, used;
static char *base;
static size_t *sizes; // bytes of the allocation that starts at a page

static int number(const char *name, int fallback) {
    const char *value = getenv(name);
    return value ? atoi(value) : fallback;
}

__attribute__((constructor)) static void reserve(void) {
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

size_t nullgpu_total(void) { return (size_t)number("NULLGPU_GIB", 80) << 30; }
size_t nullgpu_free(void) { return nullgpu_total() - atomic_load(&used); }

static size_t whole_pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

static int take(size_t bytes) {
    if (atomic_fetch_add(&used, bytes) + bytes <= nullgpu_total()) return 1;
    atomic_fetch_sub(&used, bytes);
    return 0;
}

void *nullgpu_reserve(size_t bytes) {
    // Addresses are never used twice, so that fresh memory is zero and a stale pointer reads zeros. The driver aligns to 2 MiB.
    size_t whole = whole_pages(bytes), align = bytes >= HUGE ? HUGE : PAGE, start, end, before = atomic_load(&next);
    do {
        start = (before + align - 1) / align * align;
        end = start + whole;
    } while (!atomic_compare_exchange_weak(&next, &before, end));
    if (end > SPACE) abort();
    return base + start;
}

unsigned long long nullgpu_take(size_t bytes) {
    if (!take(bytes)) return 0;
    size_t *handle = nullgpu_handle();
    *handle = bytes;
    return (unsigned long long)handle;
}

void nullgpu_give(unsigned long long handle) { atomic_fetch_sub(&used, *(size_t *)handle); }

void *nullgpu_allocate(size_t bytes) {
    size_t whole = whole_pages(bytes);
    if (!whole) return base;
    if (!take(whole)) return NULL;
    char *pointer = nullgpu_reserve(bytes);
    sizes[(pointer - base) / PAGE] = whole;
    return pointer;
}

void nullgpu_release(void *pointer) {
    if (!pointer || !nullgpu_is_device(pointer)) return;
    size_t *size = &sizes[((char *)pointer - base) / PAGE];
    atomic_fetch_sub(&used, *size);
    if (*size) madvise(pointer, *size, MADV_DONTNEED);
    *size = 0;
}

int nullgpu_is_device(const void *pointer) {
    return (const char *)pointer >= base && (const char *)pointer < base + SPACE;
}

void nullgpu_copy(void *to, const void *from, size_t bytes) {
    nullgpu_count(NULLGPU_COPY);
    if (bytes >= LARGE_COPY && nullgpu_is_device(to) && nullgpu_is_device(from)) return;
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
