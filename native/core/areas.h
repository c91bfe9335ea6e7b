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
    uint64_t offset;  /* in the file */
    uint8_t *address; /* of its first byte in this process; NULL: it is not mapped here */
    vfu_use *use;     /* the file behind it; NULL: only messages reach it */
    uint32_t prot;
} vfu_area;

enum { VFU_LEAF = 72 }; /* as many as fit into a page: a search meets one translation of ours, not three */

typedef struct {
    size_t count;
    uint64_t last[VFU_LEAF]; /* by area: iova + size - 1 (an end of 2^64 does not fit into 64 bits) */
    vfu_area area[VFU_LEAF];
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
/* NULL at the end. */
vfu_area *vfu_areas_at(const vfu_areas *areas, vfu_place place);
vfu_place vfu_areas_next(const vfu_areas *areas, vfu_place place);
/* Puts an area before `place`; 0 or -ENOMEM (nothing changed). */
int vfu_areas_insert(vfu_areas *areas, vfu_place place, const vfu_area *area);
/* Takes out `count` areas from `place` on. */
void vfu_areas_remove(vfu_areas *areas, vfu_place place, size_t count);

#endif
