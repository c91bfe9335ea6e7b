/* Which pages a device has written: a sparse bitmap over the whole 64-bit space, built like a page table.
 *
 * Marking is lock-free and comes after the store it reports; a report takes the bits and clears them in one step, so
 * that none is lost. If there is no memory for a leaf, or the log has grown beyond what a client may have of it,
 * everything counts as dirty from then on: never too little.
 */
#ifndef VFU_DIRTY_H
#define VFU_DIRTY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VFU_PAGE_SHIFT = 12 }; /* tracked in pages of 4 KiB, whatever size is asked for */

typedef struct {
    uint64_t iova, last;
} vfu_span;

typedef struct vfu_dirty vfu_dirty;

/* Logs writes inside `spans` (sorted, no overlap), or everywhere if there are none. NULL: no memory. */
vfu_dirty *vfu_dirty_new(const vfu_span *span, size_t spans);
void vfu_dirty_free(vfu_dirty *dirty);

void vfu_dirty_mark(vfu_dirty *dirty, uint64_t iova, uint64_t length);
/* Takes the bits of `pages` pages of 1 << shift bytes from `iova` on: sets bit n of `bitmap` (little-endian, zeroed by
 * the caller) if page iova + (n << shift) was written. The range starts at a page of 4 KiB and ends within 2^64. */
void vfu_dirty_report(vfu_dirty *dirty, uint64_t iova, uint64_t pages, unsigned shift, uint8_t *bitmap);
enum { VFU_MOST_RUNS = 8192 };
/* What a report of everything would say, without taking it: runs of whole pages, in order, and how many; those that lie
 * nearest are joined until there are VFU_MOST_RUNS at most. NULL: no memory. */
vfu_span *vfu_dirty_runs(vfu_dirty *dirty, size_t *runs);
/* Marks one of them. */
void vfu_dirty_mark_run(vfu_dirty *dirty, vfu_span run);
/* What is logged. */
const vfu_span *vfu_dirty_spans(const vfu_dirty *dirty, size_t *spans);
/* The range is somebody else's from now on: its bits are dropped; how many would have been reported. */
uint64_t vfu_dirty_forget(vfu_dirty *dirty, uint64_t iova, uint64_t last);

#endif
