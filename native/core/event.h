/* Eventfds: the interrupt lines of a client. */
#ifndef VFU_EVENT_H
#define VFU_EVENT_H

#include <stdbool.h>

/* Adds 1 without ever blocking. 1: done; 0: the counter is full (so the event is set anyway); -errno. */
int vfu_event_signal(int fd);

bool vfu_event_is(int fd);

#endif
