#include "guard.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RANGES = 256 };

struct vfu_range {
    _Atomic uintptr_t base; /* 0: the entry is free */
    _Atomic size_t size;
    _Atomic int on_fault;
    atomic_bool hit;
};

/* The table only grows, by blocks that stay where they are. */
typedef struct Block {
    vfu_range range[RANGES];
    struct Block *_Atomic next;
} Block;

static Block table;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

/* Initial-exec: the handler must not be the first to touch them, or the loader would allocate. */
static _Thread_local __attribute__((tls_model("initial-exec"))) sigjmp_buf *volatile way_out;
static _Thread_local __attribute__((tls_model("initial-exec"))) volatile bool passing;
static _Thread_local __attribute__((tls_model("initial-exec"))) volatile bool told; /* see told_again */
static atomic_size_t touched_by_anybody; /* entries with VFU_FAULT_ZEROES */
static struct sigaction found;

/* -- the handler -------------------------------------------------------------------------------------------------- */

static vfu_range *range_of(uintptr_t address)
{
    for (Block *block = &table; block; block = atomic_load(&block->next))
        for (size_t i = 0; i < RANGES; i++) {
            vfu_range *range = &block->range[i];
            uintptr_t base = atomic_load(&range->base);
            if (base && address - base < atomic_load(&range->size) && atomic_load(&range->base) == base)
                return range; /* base and size belong together: the entry was not given to another mapping meanwhile */
        }
    return NULL;
}

static void die(siginfo_t *info)
{
    struct sigaction standard = {.sa_handler = SIG_DFL};

    sigaction(SIGBUS, &standard, NULL); /* the instruction faults again, and the default action follows */
    if (info->si_code <= 0)
        raise(SIGBUS); /* somebody sent it: there is no instruction to fault */
}

static void pass_on(int number, siginfo_t *info, void *context)
{
    if (passing || (!(found.sa_flags & SA_SIGINFO) && found.sa_handler == SIG_DFL)) {
        die(info); /* `passing`: the handler before us raised the signal again, for whoever was before it */
        return;
    }
    passing = true;
    if (found.sa_flags & SA_SIGINFO)
        found.sa_sigaction(number, info, context);
    else if (found.sa_handler != SIG_IGN)
        found.sa_handler(number);
    else if (info->si_code > 0)
        die(info); /* a fault cannot be ignored */
    passing = false;
}

static bool zeroes_in_place(vfu_range *range)
{
    void *base = (void *)atomic_load(&range->base);

    return mmap(base, atomic_load(&range->size), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == base;
}

/* A handler put over ours (faulthandler's) ends by raising the signal again, without the address. If that may have been
 * a fault of ours, the instruction tells by faulting again, now straight to us. Twice in a row it was none. */
static bool told_again(const siginfo_t *info)
{
    bool raised = info->si_code == SI_TKILL && info->si_pid == getpid() && !passing;

    told = raised && !told && (way_out || atomic_load(&touched_by_anybody));
    return told;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    int kept = errno;
    vfu_range *range = info->si_code > 0 ? range_of((uintptr_t)info->si_addr) : NULL;

    if (told_again(info))
        return;
    if (range)
        atomic_store(&range->hit, true);
    if (range && atomic_load(&range->on_fault) == VFU_FAULT_ZEROES && zeroes_in_place(range)) {
        errno = kept;
        return;
    }
    if (range && way_out)
        siglongjmp(*way_out, 1);
    pass_on(number, info, context);
    errno = kept;
}

/* Under the table's lock. Whoever installed a handler since ours is passed to from now on. */
static void be_on_top(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    struct sigaction now;

    sigaction(SIGBUS, NULL, &now);
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_bus_error)
        return;
    found = now;
    sigaction(SIGBUS, &action, NULL);
}

/* -- the table ---------------------------------------------------------------------------------------------------- */

static vfu_range *free_range(void)
{
    Block *block = &table;

    for (;;) {
        for (size_t i = 0; i < RANGES; i++)
            if (!atomic_load(&block->range[i].base))
                return &block->range[i];
        if (!atomic_load(&block->next)) {
            Block *more = calloc(1, sizeof(*more));
            if (!more)
                return NULL;
            atomic_store(&block->next, more);
        }
        block = atomic_load(&block->next);
    }
}

vfu_range *vfu_guard_add(void *base, size_t size, enum vfu_on_fault on_fault)
{
    vfu_range *range;

    pthread_mutex_lock(&table_lock);
    be_on_top();
    range = free_range();
    if (range) {
        atomic_store(&range->size, size);
        atomic_store(&range->on_fault, on_fault);
        atomic_store(&range->hit, false);
        atomic_store(&range->base, (uintptr_t)base);
        atomic_fetch_add(&touched_by_anybody, on_fault == VFU_FAULT_ZEROES);
    }
    pthread_mutex_unlock(&table_lock);
    return range;
}

void vfu_guard_remove(vfu_range *range)
{
    pthread_mutex_lock(&table_lock);
    atomic_fetch_sub(&touched_by_anybody, atomic_load(&range->on_fault) == VFU_FAULT_ZEROES);
    atomic_store(&range->base, 0);
    pthread_mutex_unlock(&table_lock);
}

bool vfu_guard_covers(const void *base, size_t size)
{
    uintptr_t at = (uintptr_t)base;
    bool covered = false;

    pthread_mutex_lock(&table_lock);
    for (Block *block = &table; block; block = atomic_load(&block->next))
        for (size_t i = 0; i < RANGES; i++) {
            uintptr_t other = atomic_load(&block->range[i].base);
            covered |= other && other < at + size && at < other + atomic_load(&block->range[i].size);
        }
    pthread_mutex_unlock(&table_lock);
    return covered;
}

bool vfu_guard_hit(const vfu_range *range)
{
    return atomic_load(&range->hit);
}

/* -- guarded work ------------------------------------------------------------------------------------------------- */

int vfu_guarded(void (*body)(void *argument), void *argument)
{
    sigjmp_buf here;
    volatile int result = 0;

    if (sigsetjmp(here, 0) == 0) {
        way_out = &here;
        atomic_signal_fence(memory_order_seq_cst);
        body(argument);
        atomic_signal_fence(memory_order_seq_cst);
    } else {
        result = -EFAULT;
    }
    way_out = NULL;
    return result;
}

typedef struct {
    void *to;
    const void *from;
    size_t size;
} Copy;

static void copy(void *argument)
{
    const Copy *c = argument;

    memmove(c->to, c->from, c->size);
}

int vfu_guard_copy(void *to, const void *from, size_t size)
{
    Copy c = {to, from, size};

    return vfu_guarded(copy, &c);
}
