/* Views of a range of an address space: its pages, mapped once more, for whoever needs an address and not a copy.
 *
 * A view has its own mapping, in one piece, whatever areas it is made of. Revoking it, or a fault in it because the
 * file was cut, puts pages of zeros in its place; nobody else's mapping changes. It outlives its space.
 */
#ifndef VFU_PIN_H
#define VFU_PIN_H

#include "ioas.h"

/* What a view shows of one area. */
typedef struct {
    uint64_t iova, length;
    bool stale; /* the area was unmapped: what is written there is nobody's */
} vfu_part;

struct vfu_pin {
    vfu_ioas *_Atomic ioas; /* NULL once it is off the space's list */
    vfu_pin *next;
    uint64_t iova, length;
    uint32_t prot;
    uint8_t *view; /* the first byte asked for */
    uint8_t *base; /* the mapping, whole pages */
    size_t size;
    vfu_range *guard;
    vfu_part *part;
    size_t parts;
    atomic_bool revoked;
};

/* NULL with *error = -VFU_NOT_MASTER, -VFU_STOPPED, -EFAULT (not all of it is mapped here), -EPERM, -EINVAL (areas that do not lie on page borders),
 * -ENOSPC (max_pins), -ENOMEM, mmap's errno. */
vfu_pin *vfu_pin_new(vfu_ioas *ioas, uint64_t iova, uint64_t length, uint32_t prot, int *error);
/* The range is not to be touched any more: what was written counts as dirty, zeros are seen from now on. */
void vfu_pin_revoke(vfu_pin *pin);
/* Revokes it if it was not, and unmaps it. */
void vfu_pin_free(vfu_pin *pin);
/* False once it was revoked or has faulted. */
bool vfu_pin_valid(const vfu_pin *pin);

/* How many views touch [iova, last]. */
size_t vfu_pins_in(vfu_ioas *ioas, uint64_t iova, uint64_t last);
/* Revokes every view that touches [iova, last]; how many. */
size_t vfu_pins_revoke(vfu_ioas *ioas, uint64_t iova, uint64_t last);
/* [iova, last] was unmapped: what views show of it is stale. Call with the space's lock held. */
void vfu_pins_detach(vfu_ioas *ioas, uint64_t iova, uint64_t last);
/* Marks what can be written through views, now. Call with the space's lock held. */
void vfu_pins_mark(vfu_ioas *ioas);

#endif
