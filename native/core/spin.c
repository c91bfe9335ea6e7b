#include "spin.h"

#include "pump.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

/* The part of the limit that a wait takes; how often it is looked for others (ns). */
enum { PART = 5, LOOK = 16000 };
/* Where the waits fail, there are none for SHY turns, four times as many each time up to SHYEST, and half as many after every
 * so many hits. They have failed once that is FAILED which each adds or takes away: a message that came while it was waited
 * for, one that was there already, one that was late. When they are tried again little is missing to that. */
enum { SHY = 16, SHYEST = 4096, HALVED_BY = 64, CAME = -2, WAS_THERE = 1, LATE = 4, FAILED = 24, TRIAL = FAILED - 8 };

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
    if (p->shy) { /* for one that sleeps no clock is asked, either */
        p->shy--;
        return;
    }
    p->window = p->limit / PART;
    p->deadline = now() + p->limit;
    p->looked = 0;
}

void vfu_spin_stay(vfu_spin *p)
{
    p->stays = true;
    p->deadline = now() + p->limit;
    p->window = p->limit;
    p->looked = 0;
}

static void give_up(vfu_spin *p, unsigned turns)
{
    p->window = 0;
    p->failure = TRIAL;
    p->shy = turns;
}

static void weigh(vfu_spin *p, int came)
{
    p->failure = p->failure + came > 0 ? p->failure + came : 0;
    if (came < 0 && p->hits % HALVED_BY == 0)
        p->patience /= 2;
    if (p->failure < FAILED || p->stays)
        return;
    p->patience = p->patience < SHY ? SHY : p->patience;
    give_up(p, p->patience);
    p->patience = p->patience < SHYEST ? 4 * p->patience : SHYEST;
}

static bool readable(const vfu_spin *p)
{
    struct pollfd loop = {.fd = p->loop, .events = POLLIN};

    return poll(&loop, 1, 0) != 0;
}

bool vfu_spin_again(vfu_spin *p)
{
    if (!p->over || readable(p))
        return false;
    vfu_spin_begin(p);
    p->looked = now();
    return true;
}

/* True if the loop has something to do that is not on this socket. */
static bool others_wait(vfu_spin *p, vfu_stream *s, int fd, bool *more, long *got)
{
    if (!readable(p))
        return false;
    p->looked = 0; /* behind what is on this socket there may be others */
    *got = vfu_pump_receive(s, fd, more);
    return *got == -EAGAIN;
}

long vfu_spin_receive(vfu_spin *p, vfu_stream *s, int fd, bool *more)
{
    uint64_t start = now(), end = least(start + p->window, p->deadline), t = start;
    unsigned looks = 0;
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
        looks++;
        t = now();
    }
    p->spent += t - start;
    p->over = got == -EAGAIN && t >= p->deadline;
    if (got > 0) {
        p->hits++;
        weigh(p, looks > 1 ? CAME : WAS_THERE);
    } else if (got == -EAGAIN && p->window && !p->over)
        weigh(p, LATE);
    return got;
}
