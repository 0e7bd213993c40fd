/* Breaks a process at one of its durable writes, from outside: loaded before the C library (ld.so(8), LD_PRELOAD), so that
 * the program under test is the one that is shipped, with no seam in it. Counted is every call that changes what a crash
 * leaves of the files under one folder, or makes it durable.
 *
 * ERANOS_FAULTS is "MODE AT FOLDER COUNT": from call number AT on,
 *   die       the process is killed (SIGKILL) before the call;
 *   tear      a write is cut in half, any other call carried out, and then the process is killed;
 *   full      the disk is full: the first write is cut in half, every later one fails with ENOSPC;
 *   readonly  nothing can be changed any more: EROFS.
 * COUNT is a file that always holds how many calls there were.
 *
 * ERANOS_CLOCK names a file that holds by how many seconds the clock of the day is wrong, now. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char mode[16], folder[4096], count_path[4096];
static long at;
static int count_fd = -1;
static atomic_long calls;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *faults = getenv("ERANOS_FAULTS");
    if (!faults || sscanf(faults, "%15s %ld %4095s %4095s", mode, &at, folder, count_path) != 4) return;
    count_fd = REAL(open)(count_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

static int below(const char *path) {
    return count_fd >= 0 && strncmp(path, folder, strlen(folder)) == 0;
}

/* Whether it is a file or folder of ours. What is written to -shm is no part of what a crash leaves. */
static int ours(int fd) {
    char link[64], path[4096];
    struct stat st;
    if (count_fd < 0 || fstat(fd, &st) != 0 || !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0) return 0;
    path[len] = 0;
    return below(path) && !strstr(path, "-shm");
}

__attribute__((noreturn)) static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

enum verdict { PASS, HALF, AFTER, FAIL };

static enum verdict judge(int writes) {
    long n = atomic_fetch_add(&calls, 1) + 1;
    char text[32];
    int len = snprintf(text, sizeof text, "%ld\n", n);
    if (REAL(pwrite)(count_fd, text, (size_t)len, 0) < 0) return PASS;
    if (n < at) return PASS;
    if (!strcmp(mode, "die")) die();
    if (!strcmp(mode, "tear")) return writes ? HALF : AFTER;
    if (!strcmp(mode, "full") && writes) {
        errno = ENOSPC;
        return n == at ? HALF : FAIL;
    }
    if (!strcmp(mode, "readonly")) {
        errno = EROFS;
        return FAIL;
    }
    return PASS;
}

#define CALL(writes, whole, half)                                \
    switch (judge(writes)) {                                     \
    case PASS: return whole;                                     \
    case FAIL: return -1;                                        \
    case AFTER: whole; die();                                    \
    case HALF: {                                                 \
        __typeof__(whole) done = half;                           \
        if (!strcmp(mode, "tear")) die();                        \
        return done;                                             \
    }                                                            \
    }                                                            \
    return -1;

ssize_t write(int fd, const void *bytes, size_t len) {
    if (!ours(fd)) return REAL(write)(fd, bytes, len);
    CALL(1, REAL(write)(fd, bytes, len), REAL(write)(fd, bytes, len / 2))
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset) {
    if (!ours(fd)) return REAL(pwrite)(fd, bytes, len, offset);
    CALL(1, REAL(pwrite)(fd, bytes, len, offset), REAL(pwrite)(fd, bytes, len / 2, offset))
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t offset) {
    if (!ours(fd)) return REAL(pwrite64)(fd, bytes, len, offset);
    CALL(1, REAL(pwrite64)(fd, bytes, len, offset), REAL(pwrite64)(fd, bytes, len / 2, offset))
}

int ftruncate(int fd, off_t len) {
    if (!ours(fd)) return REAL(ftruncate)(fd, len);
    CALL(0, REAL(ftruncate)(fd, len), 0)
}

int ftruncate64(int fd, off64_t len) {
    if (!ours(fd)) return REAL(ftruncate64)(fd, len);
    CALL(0, REAL(ftruncate64)(fd, len), 0)
}

int fsync(int fd) {
    if (!ours(fd)) return REAL(fsync)(fd);
    CALL(0, REAL(fsync)(fd), 0)
}

int fdatasync(int fd) {
    if (!ours(fd)) return REAL(fdatasync)(fd);
    CALL(0, REAL(fdatasync)(fd), 0)
}

int rename(const char *from, const char *to) {
    if (!below(to)) return REAL(rename)(from, to);
    CALL(0, REAL(rename)(from, to), 0)
}

int unlink(const char *path) {
    if (!below(path)) return REAL(unlink)(path);
    CALL(0, REAL(unlink)(path), 0)
}

/* Opening is counted nowhere; on a disk that cannot be written it fails. */
static int refused(const char *path, int flags) {
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
    if (!below(path) || !writes || strcmp(mode, "readonly") || atomic_load(&calls) + 1 < at) return 0;
    errno = EROFS;
    return 1;
}

int open(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    mode_t permissions = va_arg(list, mode_t);
    va_end(list);
    return refused(path, flags) ? -1 : REAL(open)(path, flags, permissions);
}

int open64(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    mode_t permissions = va_arg(list, mode_t);
    va_end(list);
    return refused(path, flags) ? -1 : REAL(open64)(path, flags, permissions);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = REAL(clock_gettime)(clock, time);
    const char *wrong = getenv("ERANOS_CLOCK");
    if (result != 0 || clock != CLOCK_REALTIME || !wrong) return result;
    char text[32] = {0};
    int fd = REAL(open)(wrong, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, text, sizeof text - 1) > 0) time->tv_sec += atol(text);
        close(fd);
    }
    return 0;
}
