/* A pump that sleeps in its loop's place, where that is libuv's.
 *
 * Between two messages of a client that sleeps, too, a loop does nothing but find that out: a round of libuv, a callback of
 * Python's. So while the loop has nothing else to do, its callback for the socket sleeps on the loop's own epoll descriptor and
 * serves what comes there and then.
 *
 * Nothing and nobody is later by that. It sleeps only where libuv would sleep without end: uv_backend_timeout, which is made
 * for those who wait in its place, tells of callbacks, timers and descriptors that the loop has been given, also by what was
 * just served. And as soon as anything is readable besides the socket, or a signal has come, the callback ends and the loop
 * finds it as ever (epoll is level-triggered). Neighbours that are as busy end it each time, and then it is not tried for a
 * while.
 *
 * It must not know what the messages mean.
 */
#ifndef VFU_DOZE_H
#define VFU_DOZE_H

#include <stdbool.h>
#include <stdint.h>

/* What is called of libuv. */
typedef struct {
    unsigned int (*version)(void);
    int (*backend_fd)(const void *loop);
    int (*backend_timeout)(const void *loop);
    void (*update_time)(void *loop);
} vfu_uv;

typedef struct {
    vfu_uv uv;
    void *loop;              /* uv_loop_t; NULL: it never dozes */
    bool here;               /* this is one of its callbacks, and may sleep */
    unsigned shy, patience;  /* callbacks until it is tried again, and how many there will be then */
    uint64_t sleeps, served; /* how often it has slept, and been woken for the socket */
} vfu_doze;

/* From now on it may, in the callbacks of this loop. False: `file`, of this process, has not the libuv that is known here. */
bool vfu_doze_allow(vfu_doze *doze, void *loop, const char *file);
/* A callback begins; it may sleep, unless that has not paid. */
void vfu_doze_begin(vfu_doze *doze);
/* True if nothing and nobody waits for the end of the callback: the loop has nothing else to do. */
bool vfu_doze_can(const vfu_doze *doze);
/* Sleeps, if it can, until `fd` alone is readable: true. False: the callback is to end. */
bool vfu_doze_sleep(vfu_doze *doze, int fd);
/* The callback ends. */
static inline void vfu_doze_end(vfu_doze *doze) { doze->here = false; }

#endif
