/* Devices that write while their gate lets them, against who closes it: after the drain that follows nobody writes. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../../native/core/access.h"
#include "stress.h"

enum { SIZE = 65536, FILL = 0x5A, YIELDS = 8 };

static const uint32_t CLOSING[] = {VFU_GATE_MASTER, VFU_GATE_RUNNING};

static vfu_ioas space;
static vfu_gate gate = {.word = VFU_GATE_MASTER | VFU_GATE_RUNNING};
static uint8_t *client;
static atomic_ullong written, closed;

void gated_set_up(void)
{
    int memory = memfd_create("stress-gated", MFD_CLOEXEC);

    must(memory >= 0 && ftruncate(memory, SIZE) == 0, "no memory", errno);
    client = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    must(client != MAP_FAILED, "no mapping", errno);
    vfu_ioas_init(&space);
    space.gate = &gate;
    must(vfu_ioas_map(&space, 0, SIZE, VFU_PROT_READ | VFU_PROT_WRITE, memory, 0, VFU_ACCESS_MAPPED) == 0, "a map", 0);
    close(memory);
}

void gated_write(uint64_t dice)
{
    static const uint8_t bytes[SIZE];
    uint64_t old;
    int error = dice % 4 ? vfu_ioas_write(&space, 0, bytes, 1 + dice / 4 % SIZE)
                         : vfu_ioas_atomic(&space, VFU_STORE, 0, 8, 0, 0, &old);

    must(!error || error == -VFU_NOT_MASTER || error == -VFU_STOPPED, "a gated write", error);
    if (!error)
        atomic_fetch_add(&written, 1);
}

static void yield(void)
{
    for (int i = 0; i < YIELDS; i++)
        sched_yield();
}

void *gatekeeper(void *unused)
{
    for (unsigned round = 0; !atomic_load(&stop); round++) {
        uint32_t bit = CLOSING[round % 2];

        atomic_fetch_and(&gate.word, ~bit);
        vfu_ioas_drain(&space);
        memset(client, FILL, SIZE);
        yield();
        for (int i = 0; i < SIZE; i++)
            must(client[i] == FILL, "written after the gate was closed: byte", i);
        atomic_fetch_or(&gate.word, bit);
        atomic_fetch_add(&closed, 1);
        yield();
    }
    return unused;
}

unsigned long long gated_end(void)
{
    must(atomic_load(&written), "no gated write went through", 0);
    vfu_ioas_free(&space);
    munmap(client, SIZE);
    return atomic_load(&closed);
}
