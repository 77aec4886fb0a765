// Loaded before the C library: records what is done to the files beneath $CRASH_ROOT, in its order, in $CRASH_TRACE. A record is a header
// and a payload; crash/trace.rs reads them. All system calls are made directly: the functions of the same name that come next are not needed.
//
// What is written to memory that is mapped (SQLite's index of its write-ahead log) is not seen, and need not be: SQLite makes it anew.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "open.h"

enum kind { NAME = 1, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, UNLINK, RENAME };

struct header {
    uint64_t kind;
    uint64_t file;    // Its inode.
    uint64_t at;      // A write's offset, a truncated file's length; 1 for the name of a directory.
    uint64_t payload; // Bytes that follow: a path, two of them with a line end between, or what was written.
};

#define FILES_MAX 65536
static int trace = -1;
static const char *root;
static uint64_t inodes[FILES_MAX]; // Of what is open and ours; 0 else.
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("CRASH_TRACE");
    root = getenv("CRASH_ROOT");
    if (path) trace = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int is_ours(const char *path) { return trace >= 0 && root && path && !strncmp(path, root, strlen(root)); }
static uint64_t inode(int fd) { return fd >= 0 && fd < FILES_MAX ? inodes[fd] : 0; }

// The caller holds the lock, so that the records stand in the order of what they record.
static void record(enum kind kind, uint64_t file, uint64_t at, const void *payload, size_t bytes) {
    int error = errno;
    struct header header = {kind, file, at, bytes};
    struct iovec parts[2] = {{&header, sizeof header}, {(void *)payload, bytes}};
    if (syscall(SYS_writev, trace, parts, bytes ? 2 : 1) != (long)(sizeof header + bytes)) abort();
    errno = error;
}

static int opened(int directory, const char *path, int flags, mode_t mode) {
    if (!is_ours(path)) {
        int fd = syscall(SYS_openat, directory, path, flags, mode);
        if (fd >= 0 && fd < FILES_MAX) inodes[fd] = 0;
        return fd;
    }
    pthread_mutex_lock(&order);
    int fd = syscall(SYS_openat, directory, path, flags, mode), error = errno;
    struct stat stat;
    if (fd >= 0 && fd < FILES_MAX && !fstat(fd, &stat)) {
        inodes[fd] = stat.st_ino;
        record(NAME, stat.st_ino, S_ISDIR(stat.st_mode), path, strlen(path));
        if (flags & O_TRUNC) record(TRUNCATE, stat.st_ino, 0, 0, 0);
    }
    pthread_mutex_unlock(&order);
    errno = error;
    return fd;
}

static ssize_t written(int fd, const void *bytes, size_t count, off64_t at) {
    pthread_mutex_lock(&order);
    ssize_t done = syscall(SYS_pwrite64, fd, bytes, count, at);
    if (done > 0) record(WRITE, inode(fd), at, bytes, done);
    pthread_mutex_unlock(&order);
    return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return inode(fd) ? written(fd, bytes, count, at) : syscall(SYS_pwrite64, fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }

ssize_t write(int fd, const void *bytes, size_t count) {
    if (!inode(fd)) return syscall(SYS_write, fd, bytes, count);
    off64_t at = lseek64(fd, 0, SEEK_CUR);
    ssize_t done = written(fd, bytes, count, at);
    if (done > 0) lseek64(fd, at + done, SEEK_SET);
    return done;
}

int ftruncate64(int fd, off64_t bytes) {
    if (!inode(fd)) return syscall(SYS_ftruncate, fd, bytes);
    pthread_mutex_lock(&order);
    int failed = syscall(SYS_ftruncate, fd, bytes);
    if (!failed) record(TRUNCATE, inode(fd), bytes, 0, 0);
    pthread_mutex_unlock(&order);
    return failed;
}

int ftruncate(int fd, off_t bytes) { return ftruncate64(fd, bytes); }

// Others write meanwhile: what is written after the beginning is not covered.
static int synced(int fd, long call) {
    uint64_t file = inode(fd);
    if (!file) return syscall(call, fd);
    pthread_mutex_lock(&order);
    record(SYNC_BEGIN, file, 0, 0, 0);
    pthread_mutex_unlock(&order);
    int failed = syscall(call, fd);
    pthread_mutex_lock(&order);
    if (!failed) record(SYNC_END, file, 0, 0, 0);
    pthread_mutex_unlock(&order);
    return failed;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int close(int fd) {
    if (fd >= 0 && fd < FILES_MAX) inodes[fd] = 0;
    return syscall(SYS_close, fd);
}

int unlink(const char *path) {
    if (!is_ours(path)) return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&order);
    int failed = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (!failed) record(UNLINK, 0, 0, path, strlen(path));
    pthread_mutex_unlock(&order);
    return failed;
}

int rename(const char *from, const char *to) {
    if (!is_ours(from) && !is_ours(to)) return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    pthread_mutex_lock(&order);
    int failed = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    char both[8192];
    int bytes = snprintf(both, sizeof both, "%s\n%s", from, to);
    if (!failed) record(RENAME, 0, 0, both, bytes);
    pthread_mutex_unlock(&order);
    return failed;
}
