#include "guard.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* The copy in progress on this thread. The handler believes a fault to be ours only if its address lies inside. */
typedef struct {
    sigjmp_buf back;
    uintptr_t to, from;
    size_t size;
    volatile bool active;
} Copy;

static _Thread_local Copy copying;
static struct sigaction found;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool ours(uintptr_t address)
{
    return copying.active && (address - copying.to < copying.size || address - copying.from < copying.size);
}

static void pass_on(int number, siginfo_t *info, void *context)
{
    if (found.sa_flags & SA_SIGINFO) {
        found.sa_sigaction(number, info, context);
    } else if (found.sa_handler != SIG_DFL && found.sa_handler != SIG_IGN) {
        found.sa_handler(number);
    } else {
        sigaction(SIGBUS, &found, NULL); /* the instruction faults again, and the default action follows */
        if (info->si_code <= 0)
            raise(SIGBUS); /* somebody sent it: there is no instruction to fault */
    }
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    if (ours((uintptr_t)info->si_addr))
        siglongjmp(copying.back, 1);
    pass_on(number, info, context);
}

static void install(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};

    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &found);
}

void vfu_guard_install(void)
{
    pthread_once(&once, install);
}

int vfu_guard_copy(void *to, const void *from, size_t size)
{
    volatile int result = 0;

    copying.to = (uintptr_t)to;
    copying.from = (uintptr_t)from;
    copying.size = size;
    if (sigsetjmp(copying.back, 0) == 0) {
        copying.active = true;
        atomic_signal_fence(memory_order_seq_cst);
        memmove(to, from, size);
        atomic_signal_fence(memory_order_seq_cst);
    } else {
        result = -EFAULT;
    }
    copying.active = false;
    return result;
}
