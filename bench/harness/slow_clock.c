/* Preloaded by bench/budget: under valgrind a program runs some 50 times slower, so its monotonic clock does, too. Otherwise whatever runs by time (turns,
 * sweeps, flushes) would run 50 times more often per request than it does in truth. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/epoll.h>
#include <time.h>

#define SLOWER 50

static long long nanoseconds(const struct timespec *time) { return time->tv_sec * 1000000000LL + time->tv_nsec; }

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    static long long begin;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && clock == CLOCK_MONOTONIC) {
        if (!begin) begin = nanoseconds(time);
        long long slowed = begin + (nanoseconds(time) - begin) / SLOWER;
        time->tv_sec = slowed / 1000000000LL;
        time->tv_nsec = slowed % 1000000000LL;
    }
    return result;
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int milliseconds) {
    static int (*real)(int, struct epoll_event *, int, int);
    if (!real) real = dlsym(RTLD_NEXT, "epoll_wait");
    if (milliseconds > 0) milliseconds = milliseconds > 1000 ? 50000 : milliseconds * SLOWER;
    return real(epoll, events, most, milliseconds);
}
