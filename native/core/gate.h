/* One device's gate word: what COMMAND and the migration machine allow right now (S0.6, S2.15, S3.9).
 * Written by configuration space and the migration machine, read by tables, DMA and interrupts. */
#ifndef VFU_GATE_H
#define VFU_GATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    VFU_GATE_IO = 1u << 0,
    VFU_GATE_MEMORY = 1u << 1,
    VFU_GATE_MASTER = 1u << 2,
    VFU_GATE_RUNNING = 1u << 8,
    VFU_GATE_QUIET = 1u << 9, /* registers answer, but nothing leaves the device: RUNNING_P2P (S3.10) */
};

typedef struct {
    _Atomic uint32_t word;
    _Atomic uint64_t refused; /* accesses answered with all-ones or dropped */
} vfu_gate;

static inline bool vfu_gate_open(const vfu_gate *gate, uint32_t needs)
{
    return gate == NULL || (atomic_load_explicit(&gate->word, memory_order_relaxed) & needs) == needs;
}

static inline void vfu_gate_refuse(vfu_gate *gate)
{
    atomic_fetch_add_explicit(&gate->refused, 1, memory_order_relaxed);
}

#endif
