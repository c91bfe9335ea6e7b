/* What the files that make up an address space share: for whoever holds its lock for writing. */
#ifndef VFU_IOAS_PARTS_H
#define VFU_IOAS_PARTS_H

#include "ioas.h"

static inline bool vfu_wraps(uint64_t iova, uint64_t size) { return size == 0 || vfu_last(iova, size) < iova; }
/* Whether there may be one more area of that size there: 0, -EINVAL (reserved, not allowed), -ENOSPC. */
int vfu_ioas_room(const vfu_ioas *ioas, uint64_t iova, uint64_t size);
/* The use of a source, whose reference it takes over; NULL: no memory, and the reference is given back. */
vfu_use *vfu_ioas_use(vfu_ioas *ioas, vfu_source *source, enum vfu_trust trust);
void vfu_ioas_drop_use(vfu_ioas *ioas, vfu_use *use);
/* Puts an area at its place; -ENOMEM: its use is gone if it was the only one. */
int vfu_ioas_put(vfu_ioas *ioas, vfu_place place, const vfu_area *area);

#endif
