/* loop.h: what the event loops of both tools share: time, a timer, sockets, and how to give up. */
#ifndef LOOP_H
#define LOOP_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000L

/* Nanoseconds of CLOCK_MONOTONIC: one clock for all processes of a host, so that one tool can read
   the other's stamps. */
static inline long now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * NS_PER_S + at.tv_nsec;
}

static inline void die(const char *what) {
    perror(what);
    exit(2);
}

/* Thousands of streams need thousands of descriptors: take all that the system grants. */
static inline void raise_open_files(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* A timer as a descriptor: epoll's own timeout counts milliseconds, too coarse for events that are
   0.1 ms apart. */
static inline int make_timer(int epoll) {
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event wanted = {.events = EPOLLIN, .data = {.ptr = NULL}};
    if (timer < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &wanted) < 0) die("timer");
    return timer;
}

/* Set the timer; 0 switches it off, a time gone by fires at once. Setting clears what has fired. */
static inline void set_timer(int timer, long at_ns) {
    struct itimerspec when = {
        .it_value = {.tv_sec = at_ns / NS_PER_S, .tv_nsec = at_ns % NS_PER_S}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static inline struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* Send each piece at once: Nagle's algorithm would be measured instead of the gateway. */
static inline void no_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static inline void *allocate(void *old, size_t size) {
    void *memory = realloc(old, size);
    if (memory == NULL) die("memory");
    return memory;
}

#endif
