// Loaded before the C library: lies about the files beneath $FAULTS_ROOT, and about the wall clock, as the file $FAULTS_CONTROL says.
// The control file is mapped, so that a test changes its mind while the server runs. All system calls are made directly: the functions
// of the same name that come next are not needed.
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "open.h"

struct control {
    int64_t wall_ahead_ms; // Added to the wall clock; the others run on.
    int32_t write_errno;   // What writing fails with; 0 for none.
    int32_t sync_errno;    // What syncing fails with.
    int32_t sync_ms;       // How long a sync takes.
    int32_t sync_hangs;    // While it is set, a sync does not return.
    int64_t syncs;         // How many syncs were asked for.
};

#define FILES_MAX 65536
static volatile struct control *control;
static const char *root;
static unsigned char tracked[FILES_MAX];

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("FAULTS_CONTROL");
    root = getenv("FAULTS_ROOT");
    if (!path) return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR, 0);
    void *mapped = mmap(0, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) control = mapped;
    syscall(SYS_close, fd);
}

static int is_ours(int fd) { return control && fd >= 0 && fd < FILES_MAX && tracked[fd]; }

static int opened(int directory, const char *path, int flags, mode_t mode) {
    int fd = syscall(SYS_openat, directory, path, flags, mode);
    if (fd >= 0 && fd < FILES_MAX) tracked[fd] = root && !strncmp(path, root, strlen(root));
    return fd;
}

static int refuses(int error) {
    if (error) errno = error;
    return error;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    if (is_ours(fd) && refuses(control->write_errno)) return -1;
    return syscall(SYS_pwrite64, fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }

ssize_t write(int fd, const void *bytes, size_t count) {
    if (is_ours(fd) && refuses(control->write_errno)) return -1;
    return syscall(SYS_write, fd, bytes, count);
}

int ftruncate64(int fd, off64_t bytes) {
    if (is_ours(fd) && refuses(control->write_errno)) return -1;
    return syscall(SYS_ftruncate, fd, bytes);
}

int ftruncate(int fd, off_t bytes) { return ftruncate64(fd, bytes); }

static void wait_ms(int ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
    syscall(SYS_nanosleep, &time, 0);
}

static int synced(int fd, long call) {
    if (!is_ours(fd)) return syscall(call, fd);
    __atomic_add_fetch((int64_t *)&control->syncs, 1, __ATOMIC_SEQ_CST);
    if (control->sync_ms) wait_ms(control->sync_ms);
    while (control->sync_hangs) wait_ms(5);
    if (refuses(control->sync_errno)) return -1;
    return syscall(call, fd);
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = syscall(SYS_clock_gettime, clock, time);
    if (!failed && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += control->wall_ahead_ms / 1000;
    return failed;
}

int gettimeofday(struct timeval *time, void *zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
