/* Preloaded by bench/budget: under valgrind a program runs some 50 times slower, so its monotonic clock does, too. Otherwise whatever runs by time (turns,
 * sweeps, flushes) would run 50 times more often per request than it does in truth. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>

#define SLOWER 50

static long long begin;

static long long nanoseconds(const struct timespec *time) { return time->tv_sec * 1000000000LL + time->tv_nsec; }

static struct timespec spec(long long nanoseconds) {
    return (struct timespec){.tv_sec = nanoseconds / 1000000000LL, .tv_nsec = nanoseconds % 1000000000LL};
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && clock == CLOCK_MONOTONIC) {
        if (!begin) begin = nanoseconds(time);
        *time = spec(begin + (nanoseconds(time) - begin) / SLOWER);
    }
    return result;
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int milliseconds) {
    static int (*real)(int, struct epoll_event *, int, int);
    if (!real) real = dlsym(RTLD_NEXT, "epoll_wait");
    if (milliseconds > 0) milliseconds = milliseconds > 1000 ? 50000 : milliseconds * SLOWER;
    return real(epoll, events, most, milliseconds);
}

/* Rust's locks and channels wait by futex until a moment of the clock that they have read. */
long syscall(long number, ...) {
    static long (*real)(long, ...);
    if (!real) real = dlsym(RTLD_NEXT, "syscall");
    va_list list;
    va_start(list, number);
    long a[6];
    for (int at = 0; at < 6; at++) a[at] = va_arg(list, long);
    va_end(list);
    struct timespec until;
    int absolute = (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && !(a[1] & FUTEX_CLOCK_REALTIME);
    if (number == SYS_futex && absolute && a[3] && begin) {
        until = spec(begin + (nanoseconds((struct timespec *)a[3]) - begin) * SLOWER);
        a[3] = (long)&until;
    }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
