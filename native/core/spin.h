/* Polling that pays: how long a pump waits, without sleeping, for the next message of a connection that was just served.
 *
 * The rule is that of KVM's halt polling: a wait that was too short for a message which then came soon makes the next one
 * longer, a message that came late makes it shorter, down to none. A wait is at most a fifth of `limit`: a client that
 * polls needs no longer, and to wait for one that sleeps costs more of the processor than to sleep, too. Waits of which fewer
 * than four in five succeed end for a while, each time for a longer one, however soon the messages came then: a client on
 * the same processor sends nothing before this thread sleeps.
 *
 * Two bounds hold whatever the rule says. A turn of the pump lasts `limit` at most (and the message in hand). And it ends
 * as soon as the loop has anything else to do: its epoll descriptor is itself readable then, also for what the loop has
 * been told of and has not come to yet (epoll is level-triggered). So of many busy connections none is waited for.
 *
 * It must not know loops, or what the messages mean. Times are nanoseconds.
 */
#ifndef VFU_SPIN_H
#define VFU_SPIN_H

#include "stream.h"

typedef struct {
    uint64_t limit;    /* 0: nothing is waited for */
    uint64_t window;   /* how long the next wait is */
    int loop;          /* the loop's epoll descriptor, in which the socket is, too */
    bool missed;       /* the last wait was too short */
    unsigned failure;  /* what misses have added and hits taken away, since waiting was given up */
    unsigned shy;      /* turns until it is tried again */
    unsigned patience; /* how many there will be, the next time that misses end it */
    uint64_t deadline; /* of this turn */
    uint64_t looked;   /* when it was last seen that nobody else waits; 0: look at once */
    uint64_t ended;    /* when the last turn ended */
    uint64_t spins, hits, yields, spent;
} vfu_spin;

/* A turn has found a message, at once: what the next waits are, by when it came. */
void vfu_spin_begin(vfu_spin *spin);
/* A turn begins that waits for as long as it may, whatever came of that before: a thread that has nothing else to do. */
void vfu_spin_stay(vfu_spin *spin);
/* True while waiting may pay. */
static inline bool vfu_spin_pays(const vfu_spin *spin) { return spin->window != 0; }
/* As vfu_pump_receive. -EAGAIN: nothing came while that paid; the turn is to end. */
long vfu_spin_receive(vfu_spin *spin, vfu_stream *stream, int fd, bool *more);
/* The turn has ended. */
void vfu_spin_end(vfu_spin *spin);

#endif
