/*
 * Preloaded into a measured server: counts its flushes, and makes each take longer.
 *
 * The disks of development machines often acknowledge a flush within microseconds, because something below them
 * holds the bytes in memory. A disk that really writes takes milliseconds, and the design has to hold on those too.
 *
 *   SLOWFLUSH_US      how many microseconds each flush takes beyond its own time; none by default
 *   SLOWFLUSH_COUNT   a file that holds the count of flushes in its first eight bytes, in the machine's order;
 *                     mapped and shared, so that it can be read at any time
 *
 * Sees flushes that go through the C library, as those of SQLite and of Rust's std::fs do.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef int flush_fn(int);

static _Atomic uint64_t unseen;
static _Atomic uint64_t *count = &unseen;
static flush_fn *real_fsync, *real_fdatasync;
static struct timespec delay;

__attribute__((constructor)) static void begin(void) {
    const char *us = getenv("SLOWFLUSH_US"), *path = getenv("SLOWFLUSH_COUNT");
    long wanted = us ? atol(us) : 0;
    delay.tv_sec = wanted / 1000000;
    delay.tv_nsec = wanted % 1000000 * 1000;
    real_fsync = (flush_fn *)dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (flush_fn *)dlsym(RTLD_NEXT, "fdatasync");
    if (!path) return;
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return;
    if (ftruncate(file, sizeof *count) == 0) {
        void *shared = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (shared != MAP_FAILED) count = shared;
    }
    close(file);
}

static int flush(flush_fn *real, int file) {
    struct timespec left = delay;
    atomic_fetch_add_explicit(count, 1, memory_order_relaxed);
    if (!real) {
        errno = ENOSYS;
        return -1;
    }
    while ((left.tv_sec || left.tv_nsec) && nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
    return real(file);
}

int fsync(int file) { return flush(real_fsync, file); }
int fdatasync(int file) { return flush(real_fdatasync, file); }
