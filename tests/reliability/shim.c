/* Counts the calls with which a process changes a file system; at a chosen one the process dies, or gets an error.

   Preloaded (LD_PRELOAD), so it needs neither root nor ptrace. A call counts where it names or changes a regular file or a
   folder: writes to a terminal or a pipe do not. The counters lie in memory that a forked child shares with its parent. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 65536

enum kind { WRITE, FSYNC, RENAME, MKDIR, UNLINK, CREATE, TRUNCATE, CHMOD, COPY };
struct shared { long calls; unsigned char kinds[MOST]; };

static struct shared *shared;
static long first = -1, last = -1;   /* the calls that are hit; the first call is number 1; -1: none */
static int error_number;             /* 0: the process dies */
static int torn;                     /* it dies when half of a write is done */
static unsigned only = ~0u;          /* bits of the kinds that count */
static int armed;

__attribute__((constructor)) static void begin(void) {
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* For the harness, by ctypes: in the parent before the fork, and in the child before the command. */
void fault_reset(void) { shared->calls = 0; }
long fault_calls(void) { return shared->calls; }
int fault_kind(long call) { return call >= 1 && call <= MOST ? shared->kinds[call - 1] : -1; }
void fault_arm(long from, long to, int error, int half, unsigned kinds) {
    first = from; last = to; error_number = error; torn = half; only = kinds; armed = 1;
}

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

/* 1: the call is to fail with error_number. A process that is to die before a write never returns from here. */
static int hit(enum kind kind, int *half) {
    if (!armed || !(only & (1u << kind))) return 0;
    long call = __sync_add_and_fetch(&shared->calls, 1);
    if (call <= MOST) shared->kinds[call - 1] = (unsigned char)kind;
    if (first < 0 || call < first || call > last) return 0;
    if (error_number) { errno = error_number; return 1; }
    if (torn && half) { *half = 1; return 0; }
    die();
    return 1;
}

static int regular(int fd) {
    struct stat s;
    int saved = errno, yes = fd > 2 && fstat(fd, &s) == 0 && S_ISREG(s.st_mode);
    errno = saved;
    return yes;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size) {
    int half = 0;
    if (regular(fd) && hit(WRITE, &half)) return -1;
    if (half) { syscall(SYS_write, fd, data, size / 2); die(); }
    return syscall(SYS_write, fd, data, size);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    int half = 0;
    if (regular(fd) && hit(WRITE, &half)) return -1;
    if (half) { syscall(SYS_pwrite64, fd, data, size / 2, at); die(); }
    return syscall(SYS_pwrite64, fd, data, size, at);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (regular(fd) && hit(WRITE, NULL)) return -1;
    return syscall(SYS_writev, fd, parts, count);
}
int fsync(int fd) { return hit(FSYNC, NULL) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return hit(FSYNC, NULL) ? -1 : REAL(fdatasync)(fd); }
int rename(const char *from, const char *to) { return hit(RENAME, NULL) ? -1 : REAL(rename)(from, to); }
int renameat(int a, const char *from, int b, const char *to) { return hit(RENAME, NULL) ? -1 : REAL(renameat)(a, from, b, to); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    return hit(RENAME, NULL) ? -1 : REAL(renameat2)(a, from, b, to, flags);
}
int mkdir(const char *path, mode_t mode) { return hit(MKDIR, NULL) ? -1 : REAL(mkdir)(path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return hit(MKDIR, NULL) ? -1 : REAL(mkdirat)(at, path, mode); }
int unlink(const char *path) { return hit(UNLINK, NULL) ? -1 : REAL(unlink)(path); }
int unlinkat(int at, const char *path, int flags) { return hit(UNLINK, NULL) ? -1 : REAL(unlinkat)(at, path, flags); }
int rmdir(const char *path) { return hit(UNLINK, NULL) ? -1 : REAL(rmdir)(path); }
int remove(const char *path) { return hit(UNLINK, NULL) ? -1 : REAL(remove)(path); }
int ftruncate64(int fd, off64_t size) { return hit(TRUNCATE, NULL) ? -1 : REAL(ftruncate64)(fd, size); }
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
int truncate64(const char *path, off64_t size) { return hit(TRUNCATE, NULL) ? -1 : REAL(truncate64)(path, size); }
int truncate(const char *path, off_t size) { return truncate64(path, size); }
int chmod(const char *path, mode_t mode) { return hit(CHMOD, NULL) ? -1 : REAL(chmod)(path, mode); }
int fchmod(int fd, mode_t mode) { return hit(CHMOD, NULL) ? -1 : REAL(fchmod)(fd, mode); }
int fchmodat(int at, const char *path, mode_t mode, int flags) { return hit(CHMOD, NULL) ? -1 : REAL(fchmodat)(at, path, mode, flags); }
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t size, unsigned flags) {
    return hit(COPY, NULL) ? -1 : REAL(copy_file_range)(in, a, out, b, size, flags);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t size) {
    if (regular(out) && hit(COPY, NULL)) return -1;
    return REAL(sendfile64)(out, in, at, size);
}
ssize_t sendfile(int out, int in, off_t *at, size_t size) { return sendfile64(out, in, (off64_t *)at, size); }

#define OPENED(flags) (((flags) & (O_CREAT | O_TRUNC)) && ((flags) & (O_WRONLY | O_RDWR)))
#define MODE(flags) mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

int open64(const char *path, int flags, ...) {
    MODE(flags)
    if (OPENED(flags) && hit(CREATE, NULL)) return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
int open(const char *path, int flags, ...) { MODE(flags) return open64(path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) {
    MODE(flags)
    if (OPENED(flags) && hit(CREATE, NULL)) return -1;
    return (int)syscall(SYS_openat, at, path, flags, mode);
}
int openat(int at, const char *path, int flags, ...) { MODE(flags) return openat64(at, path, flags, mode); }
