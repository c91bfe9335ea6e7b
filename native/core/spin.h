/* Polling that pays: how long a pump waits, without sleeping, for the next message of a connection that was just served.
 *
 * A wait is a fifth of `limit`: a client that polls needs no longer, and to wait for one that sleeps costs more of the
 * processor than to sleep, too. Whether waits pay is seen by those messages that come in the middle of one. Of a client on the
 * same processor none does: what it sends before this thread sleeps is there at once, or late. Waits that do not pay end for
 * a while, each time for a longer one.
 *
 * Two bounds hold whatever the rule says. A turn of the pump lasts `limit` at most (and the message in hand), unless its
 * caller knows that nobody is later by more. And it ends as soon as the loop has anything else to do: its epoll descriptor is
 * itself readable then, also for what the loop has been told of and has not come to yet (epoll is level-triggered). So of many
 * busy connections none is waited for.
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
    bool stays;        /* whatever comes of that */
    int failure;       /* what waits have come to since they were given up, 0 at the least */
    unsigned shy;      /* turns until it is tried again */
    unsigned patience; /* how many there will be, the next time that misses end it */
    uint64_t deadline; /* of this turn */
    bool over;         /* the last wait has come to that */
    uint64_t looked;   /* when it was last seen that nobody else waits; 0: look at once */
    uint64_t spins, hits, yields, spent;
} vfu_spin;

/* A turn has found a message, at once. */
void vfu_spin_begin(vfu_spin *spin);
/* A turn begins that waits for as long as it may, whatever came of that before: a thread that has nothing else to do. */
void vfu_spin_stay(vfu_spin *spin);
/* True while waiting may pay. */
static inline bool vfu_spin_pays(const vfu_spin *spin) { return spin->window != 0; }
/* As vfu_pump_receive. -EAGAIN: nothing came while that paid; the turn is to end. */
long vfu_spin_receive(vfu_spin *spin, vfu_stream *stream, int fd, bool *more);
/* Where a turn has come to its limit, and nobody is later by another one: it begins, unless anything is readable. */
bool vfu_spin_again(vfu_spin *spin);

#endif
