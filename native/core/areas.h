/* The areas of one I/O address space, in order of IOVA: a tree of height two.
 *
 * The root holds the last byte of every leaf, a leaf the last byte of every area in it, so that a search touches a few
 * cache lines of plain keys. Leaves that lie side by side are merged once both fit well into one: memory follows the
 * count, whatever the order of insertion and removal.
 */
#ifndef VFU_AREAS_H
#define VFU_AREAS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct vfu_use vfu_use;

typedef struct {
    uint64_t iova, size;
    uint64_t offset; /* in the file */
    vfu_use *use;    /* the file behind it; NULL: only messages reach it */
    uint32_t prot;   /* VFU_PROT_* */
} vfu_area;

/* As it is kept: what many areas cost a search is the memory that they fill, so it is little. */
typedef struct {
    uint64_t iova, offset;
    uintptr_t use_and_prot;
} vfu_kept_area;

enum {
    VFU_LEAF = 63, /* two leaves to a page; measured against 15, 31, 47 and 127 at 65 535 areas */
    VFU_PROT_BITS = 3,
};

typedef struct {
    size_t count;
    uint64_t last[VFU_LEAF]; /* by area: iova + size - 1 (an end of 2^64 does not fit into 64 bits) */
    vfu_kept_area area[VFU_LEAF];
} vfu_leaf;

typedef struct {
    size_t count;
    size_t leaves, capacity;
    uint64_t *last; /* by leaf: that of its last area */
    vfu_leaf **leaf;
} vfu_areas;

/* Where an area stands; leaf == leaves is the end. Valid until the next insert or remove. */
typedef struct {
    size_t leaf, index;
} vfu_place;

static inline uint64_t vfu_last(uint64_t iova, uint64_t size) { return iova + (size - 1); }

void vfu_areas_free(vfu_areas *areas);
/* The first area whose last byte is at or after `iova`. */
vfu_place vfu_areas_reaching(const vfu_areas *areas, uint64_t iova);
/* The area there; false at the end. */
static inline bool vfu_areas_at(const vfu_areas *areas, vfu_place place, vfu_area *area)
{
    const vfu_kept_area *kept;
    const vfu_leaf *leaf;

    if (place.leaf >= areas->leaves)
        return false;
    leaf = areas->leaf[place.leaf];
    kept = &leaf->area[place.index];
    *area = (vfu_area){.iova = kept->iova, .size = leaf->last[place.index] - kept->iova + 1, .offset = kept->offset,
                       .use = (vfu_use *)(kept->use_and_prot & ~(uintptr_t)VFU_PROT_BITS),
                       .prot = (uint32_t)(kept->use_and_prot & VFU_PROT_BITS)};
    return true;
}
vfu_place vfu_areas_next(const vfu_areas *areas, vfu_place place);
/* Puts an area before `place`; 0 or -ENOMEM (nothing changed). */
int vfu_areas_insert(vfu_areas *areas, vfu_place place, const vfu_area *area);
/* Takes out `count` areas from `place` on. */
void vfu_areas_remove(vfu_areas *areas, vfu_place place, size_t count);

#endif
