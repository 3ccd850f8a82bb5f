/*
 * Preloaded into a server or a database: while the file FAILING_FLUSH names is there, every flush fails as it does on a disk
 * that is broken (EIO).
 *
 * Sees flushes that go through the C library, as those of SQLite and PostgreSQL do.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int flush_fn(int);

static flush_fn *real_fsync, *real_fdatasync;
static const char *broken;

__attribute__((constructor)) static void begin(void) {
    real_fsync = (flush_fn *)dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (flush_fn *)dlsym(RTLD_NEXT, "fdatasync");
    // Copied: PostgreSQL writes the titles of its processes over its first environment.
    broken = getenv("FAILING_FLUSH") ? strdup(getenv("FAILING_FLUSH")) : NULL;
}

static int flush(flush_fn *real, int file) {
    int before = errno;
    if (!real || (broken && access(broken, F_OK) == 0)) {
        errno = EIO;
        return -1;
    }
    errno = before;
    return real(file);
}

int fsync(int file) { return flush(real_fsync, file); }
int fdatasync(int file) { return flush(real_fdatasync, file); }
