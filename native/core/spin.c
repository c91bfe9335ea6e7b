#include "spin.h"

#include "pump.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

/* The shortest wait; how often it is looked for others (ns). */
enum { FIRST = 2000, LOOK = 4000 };
/* The part of the limit that a wait may take. */
enum { PART = 5 };
/* Where the waits fail, there are none for SHY turns, doubled each time up to SHYEST, and halved by every so many hits.
 * A miss weighs as much as four hits, since fewer than four in five are what a client that sleeps comes to, too. */
enum { SHY = 16, SHYEST = 4096, HALVED_BY = 64, WEIGHT = 4, FAILED = 12 };

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void vfu_spin_begin(vfu_spin *p)
{
    uint64_t t, gap;

    if (p->shy) { /* for one that sleeps no clock is asked, either */
        p->shy--;
        return;
    }
    t = now();
    gap = t - p->ended;
    p->deadline = t + p->limit;
    p->looked = 0;
    if (gap > p->limit)
        p->window = p->window / 2 < FIRST ? 0 : p->window / 2;
    else if (p->missed || !p->window)
        p->window = least(p->window ? 2 * p->window : FIRST, p->limit / PART);
    p->missed = false;
}

void vfu_spin_stay(vfu_spin *p)
{
    p->deadline = now() + p->limit;
    p->window = p->limit;
    p->looked = 0;
}

static void give_up(vfu_spin *p, unsigned turns)
{
    p->window = 0;
    p->failure = 0;
    p->shy = turns;
}

static void hit(vfu_spin *p)
{
    p->hits++;
    p->failure -= p->failure != 0;
    if (p->hits % HALVED_BY == 0)
        p->patience /= 2;
}

static void miss(vfu_spin *p)
{
    p->missed = true;
    p->failure += WEIGHT;
    if (p->failure < FAILED)
        return;
    p->patience = p->patience < SHY ? SHY : p->patience;
    give_up(p, p->patience);
    p->patience = p->patience < SHYEST ? 2 * p->patience : SHYEST;
}

/* True if the loop has something to do that is not on this socket. */
static bool others_wait(vfu_spin *p, vfu_stream *s, int fd, bool *more, long *got)
{
    struct pollfd loop = {.fd = p->loop, .events = POLLIN};

    if (poll(&loop, 1, 0) == 0)
        return false;
    p->looked = 0; /* behind what is on this socket there may be others */
    *got = vfu_pump_receive(s, fd, more);
    return *got == -EAGAIN;
}

long vfu_spin_receive(vfu_spin *p, vfu_stream *s, int fd, bool *more)
{
    uint64_t start = now(), end = least(start + p->window, p->deadline), t = start;
    long got = -EAGAIN;

    p->spins++;
    while (got == -EAGAIN && t < end) {
        if (t - p->looked >= LOOK) {
            p->looked = t;
            if (others_wait(p, s, fd, more, &got)) {
                p->yields++;
                give_up(p, SHY);
                break;
            }
        }
        if (got == -EAGAIN)
            got = vfu_pump_receive(s, fd, more);
        t = now();
    }
    p->spent += t - start;
    if (got > 0)
        hit(p);
    else if (got == -EAGAIN && p->window && t < p->deadline)
        miss(p);
    return got;
}

void vfu_spin_end(vfu_spin *p)
{
    if (!p->shy)
        p->ended = now();
}
