/* Memory that may vanish: a file that was cut after it was mapped raises SIGBUS at the next touch.
 *
 * Every mapping of somebody else's file is entered in a table that the signal handler reads without a lock. A fault
 * inside vfu_guarded ends that call with -EFAULT; a fault in a mapping entered with VFU_FAULT_ZEROES gets pages of
 * zeros in place of the whole mapping, and the instruction goes on. Every other SIGBUS is passed to the handler that
 * was there before. There is no allocation and no lock in the handler.
 */
#ifndef VFU_GUARD_H
#define VFU_GUARD_H

#include <stdbool.h>
#include <stddef.h>

typedef struct vfu_range vfu_range;

enum vfu_on_fault {
    VFU_FAULT_RETURNS, /* touched inside vfu_guarded only */
    VFU_FAULT_ZEROES,  /* touched by anybody, at any time */
};

/* Enters a mapping (and puts our handler on top, if somebody else's is). NULL: no memory. */
vfu_range *vfu_guard_add(void *base, size_t size, enum vfu_on_fault on_fault);
/* Before the mapping goes. */
void vfu_guard_remove(vfu_range *range);
/* Whether a byte of [base, base + size) lies in a mapping that was entered. */
bool vfu_guard_covers(const void *base, size_t size);
/* True once a touch of it has faulted. */
bool vfu_guard_hit(const vfu_range *range);

/* Runs `body`; -EFAULT if it touched a mapping that has no page any more (what it did before that is done), else 0.
 * Not for bodies that hold locks or allocate. */
int vfu_guarded(void (*body)(void *argument), void *argument);
/* memmove that survives either side. */
int vfu_guard_copy(void *to, const void *from, size_t size);

#endif
