#include "ioas.h"

#include <errno.h>
#include <stdlib.h>

#include "spans.h"

/* Which addresses a space may use: holes, allowed and reserved spans. */

/* The lowest address from `iova` on that is aligned; false: none. */
static bool align(uint64_t *iova, uint64_t alignment)
{
    uint64_t up = (*iova + (alignment - 1)) & ~(alignment - 1);

    if (up < *iova)
        return false;
    *iova = up;
    return true;
}

/* The last byte of what stands in the way of [iova, last], if anything does. */
static bool in_the_way(const vfu_ioas *ioas, uint64_t iova, uint64_t last, uint64_t *end)
{
    size_t at = vfu_spans_reaching(ioas->reserved, ioas->reserveds, iova);
    vfu_area area;

    if (vfu_areas_at(&ioas->areas, vfu_areas_reaching(&ioas->areas, iova), &area) && area.iova <= last) {
        *end = vfu_last(area.iova, area.size);
        return true;
    }
    if (at < ioas->reserveds && ioas->reserved[at].iova <= last) {
        *end = ioas->reserved[at].last;
        return true;
    }
    return false;
}

static bool hole_in(const vfu_ioas *ioas, vfu_span span, uint64_t size, uint64_t alignment, uint64_t *iova)
{
    uint64_t at = span.iova ? span.iova : alignment, end;

    while (align(&at, alignment) && at <= span.last && span.last - at >= size - 1) {
        if (!in_the_way(ioas, at, vfu_last(at, size), &end)) {
            *iova = at;
            return true;
        }
        if (end == UINT64_MAX)
            return false;
        at = end + 1;
    }
    return false;
}

int vfu_ioas_hole(vfu_ioas *ioas, uint64_t size, uint64_t alignment, uint64_t *iova)
{
    static const vfu_span all = {0, UINT64_MAX};
    bool found = false;

    if (!size || !alignment || alignment & (alignment - 1))
        return -EINVAL;
    pthread_rwlock_rdlock(&ioas->lock);
    if (!ioas->alloweds)
        found = hole_in(ioas, all, size, alignment, iova);
    for (size_t i = 0; !found && i < ioas->alloweds; i++)
        found = hole_in(ioas, ioas->allowed[i], size, alignment, iova);
    pthread_rwlock_unlock(&ioas->lock);
    return found ? 0 : -ENOSPC;
}

/* What a new list would make impossible: areas or spans that stand where they could not any more. */
typedef bool Conflicts(const vfu_ioas *ioas, const vfu_span *span, size_t count);

static bool cross(const vfu_span *allowed, size_t alloweds, const vfu_span *reserved, size_t reserveds)
{
    for (size_t i = 0; i < alloweds; i++)
        if (vfu_spans_overlap(reserved, reserveds, allowed[i].iova, allowed[i].last))
            return true;
    return false;
}

static bool disallows(const vfu_ioas *ioas, const vfu_span *allowed, size_t count)
{
    vfu_place place = {0};
    vfu_area a;

    for (; count && vfu_areas_at(&ioas->areas, place, &a); place = vfu_areas_next(&ioas->areas, place))
        if (!vfu_spans_cover(allowed, count, a.iova, vfu_last(a.iova, a.size)))
            return true;
    return cross(allowed, count, ioas->reserved, ioas->reserveds);
}

static bool takes(const vfu_ioas *ioas, const vfu_span *reserved, size_t count)
{
    vfu_area a;

    for (size_t i = 0; i < count; i++)
        if (vfu_areas_at(&ioas->areas, vfu_areas_reaching(&ioas->areas, reserved[i].iova), &a) &&
            a.iova <= reserved[i].last)
            return true;
    return cross(ioas->allowed, ioas->alloweds, reserved, count);
}

static int replace(vfu_ioas *ioas, vfu_span **list, size_t *count, Conflicts *conflicts, const vfu_span *span,
                   size_t spans)
{
    int error;
    vfu_span *sorted = vfu_spans_sorted(span, spans, &error), *old = sorted;

    if (error)
        return error;
    pthread_rwlock_wrlock(&ioas->lock);
    if (conflicts(ioas, sorted, spans)) {
        error = -EADDRINUSE;
    } else {
        old = *list;
        *list = sorted;
        *count = spans;
    }
    pthread_rwlock_unlock(&ioas->lock);
    free(old);
    return error;
}

int vfu_ioas_allow(vfu_ioas *ioas, const vfu_span *span, size_t spans)
{
    return replace(ioas, &ioas->allowed, &ioas->alloweds, disallows, span, spans);
}

int vfu_ioas_reserve(vfu_ioas *ioas, const vfu_span *span, size_t spans)
{
    return replace(ioas, &ioas->reserved, &ioas->reserveds, takes, span, spans);
}
