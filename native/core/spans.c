#include "spans.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int by_iova(const void *a, const void *b)
{
    const vfu_span *x = a, *y = b;

    return (x->iova > y->iova) - (x->iova < y->iova);
}

vfu_span *vfu_spans_sorted(const vfu_span *span, size_t spans, int *error)
{
    vfu_span *copy;

    *error = 0;
    if (!spans)
        return NULL;
    copy = malloc(spans * sizeof(*copy));
    if (!copy) {
        *error = -ENOMEM;
        return NULL;
    }
    memcpy(copy, span, spans * sizeof(*copy));
    qsort(copy, spans, sizeof(*copy), by_iova);
    for (size_t i = 0; i < spans; i++)
        if (copy[i].iova >= copy[i].last || (i && copy[i - 1].last >= copy[i].iova))
            *error = -EINVAL;
    if (!*error)
        return copy;
    free(copy);
    return NULL;
}

size_t vfu_spans_reaching(const vfu_span *span, size_t spans, uint64_t iova)
{
    size_t low = 0, high = spans;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (span[middle].last < iova)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool vfu_spans_overlap(const vfu_span *span, size_t spans, uint64_t iova, uint64_t last)
{
    size_t at = vfu_spans_reaching(span, spans, iova);

    return at < spans && span[at].iova <= last;
}

bool vfu_spans_cover(const vfu_span *span, size_t spans, uint64_t iova, uint64_t last)
{
    size_t at = vfu_spans_reaching(span, spans, iova);

    return at < spans && span[at].iova <= iova && span[at].last >= last;
}
