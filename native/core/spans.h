/* Lists of address spans [iova, last], sorted and without overlap. */
#ifndef VFU_SPANS_H
#define VFU_SPANS_H

#include "dirty.h"

/* A sorted copy; NULL with *error = -EINVAL (first >= last, or overlap), -ENOMEM. An empty list is NULL without error. */
vfu_span *vfu_spans_sorted(const vfu_span *span, size_t spans, int *error);
/* The first span whose end is at or after `iova`; `spans` if there is none. */
size_t vfu_spans_reaching(const vfu_span *span, size_t spans, uint64_t iova);
bool vfu_spans_overlap(const vfu_span *span, size_t spans, uint64_t iova, uint64_t last);
/* One of them covers all of [iova, last] (spans that touch are not joined). */
bool vfu_spans_cover(const vfu_span *span, size_t spans, uint64_t iova, uint64_t last);

#endif
