#include "ioas.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guard.h"
#include "source.h"

static uint64_t last_of(uint64_t iova, uint64_t size)
{
    return iova + (size - 1); /* an end of 2^64 does not fit in 64 bits, the last byte does */
}

static bool wraps(uint64_t iova, uint64_t size)
{
    return size == 0 || last_of(iova, size) < iova;
}

/* The first area whose last byte is at or after `iova`. */
static size_t first_reaching(const vfu_ioas *ioas, uint64_t iova)
{
    size_t low = 0, high = ioas->count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        const vfu_area *a = &ioas->area[middle];
        if (last_of(a->iova, a->size) < iova)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int vfu_ioas_init(vfu_ioas *ioas, size_t limit)
{
    memset(ioas, 0, sizeof(*ioas));
    ioas->limit = limit;
    return -pthread_rwlock_init(&ioas->lock, NULL);
}

void vfu_ioas_free(vfu_ioas *ioas)
{
    vfu_ioas_clear(ioas);
    pthread_rwlock_destroy(&ioas->lock);
    free(ioas->area);
    ioas->area = NULL;
}

static int room_for_one(vfu_ioas *ioas)
{
    if (ioas->count >= ioas->limit)
        return -ENOSPC;
    if (ioas->count == ioas->capacity) {
        size_t capacity = ioas->capacity ? 2 * ioas->capacity : 16;
        vfu_area *area = realloc(ioas->area, capacity * sizeof(*area));
        if (!area)
            return -ENOMEM;
        ioas->area = area;
        ioas->capacity = capacity;
    }
    return 0;
}

static int insert(vfu_ioas *ioas, vfu_area area, int fd, uint32_t ways)
{
    size_t at = first_reaching(ioas, area.iova);
    int error = 0;

    if (at < ioas->count && ioas->area[at].iova <= last_of(area.iova, area.size))
        return -EEXIST;
    error = room_for_one(ioas);
    if (error)
        return error;
    if (fd >= 0) {
        area.source = vfu_source_get(fd, area.offset, area.size, area.prot, ways, &error);
        if (!area.source)
            return error;
    }
    memmove(&ioas->area[at + 1], &ioas->area[at], (ioas->count - at) * sizeof(area));
    ioas->area[at] = area;
    ioas->count++;
    ioas->files += vfu_source_access(area.source) == VFU_ACCESS_FILE;
    ioas->bytes += area.size;
    return 0;
}

int vfu_ioas_map(vfu_ioas *ioas, uint64_t iova, uint64_t size, uint32_t prot, int fd, uint64_t offset, uint32_t ways)
{
    vfu_area area = {.iova = iova, .size = size, .offset = offset, .prot = prot};
    int error;

    if (wraps(iova, size) || !(prot & (VFU_PROT_READ | VFU_PROT_WRITE)))
        return -EINVAL;
    pthread_rwlock_wrlock(&ioas->lock);
    error = insert(ioas, area, fd, ways);
    pthread_rwlock_unlock(&ioas->lock);
    return error;
}

static void release(vfu_ioas *ioas, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        ioas->bytes -= ioas->area[i].size;
        ioas->files -= vfu_source_access(ioas->area[i].source) == VFU_ACCESS_FILE;
        if (ioas->area[i].source)
            vfu_source_put(ioas->area[i].source);
    }
    if (to < ioas->count)
        memmove(&ioas->area[from], &ioas->area[to], (ioas->count - to) * sizeof(*ioas->area));
    ioas->count -= to - from;
}

static long remove_inside(vfu_ioas *ioas, uint64_t iova, uint64_t last)
{
    size_t from = first_reaching(ioas, iova), to = from;

    while (to < ioas->count && ioas->area[to].iova <= last) {
        const vfu_area *a = &ioas->area[to];
        if (a->iova < iova || last_of(a->iova, a->size) > last)
            return -ENOENT;
        to++;
    }
    if (from == to)
        return -ENOENT;
    release(ioas, from, to);
    return (long)(to - from);
}

long vfu_ioas_unmap(vfu_ioas *ioas, uint64_t iova, uint64_t size)
{
    long removed;

    if (wraps(iova, size))
        return -EINVAL;
    pthread_rwlock_wrlock(&ioas->lock);
    removed = remove_inside(ioas, iova, last_of(iova, size));
    pthread_rwlock_unlock(&ioas->lock);
    return removed;
}

size_t vfu_ioas_clear(vfu_ioas *ioas)
{
    size_t removed;

    pthread_rwlock_wrlock(&ioas->lock);
    removed = ioas->count;
    release(ioas, 0, ioas->count);
    pthread_rwlock_unlock(&ioas->lock);
    return removed;
}

int vfu_ioas_extent(const vfu_ioas *ioas, uint64_t iova, uint64_t length, uint32_t prot, vfu_extent *extent)
{
    size_t at = first_reaching(ioas, iova);
    const vfu_area *a;
    uint64_t room;

    if (at == ioas->count || ioas->area[at].iova > iova)
        return -EFAULT;
    a = &ioas->area[at];
    if ((a->prot & prot) != prot)
        return -EPERM;
    room = a->size - (iova - a->iova);
    *extent = (vfu_extent){.iova = iova, .length = length < room ? length : room, .source = a->source,
                           .offset = a->offset + (iova - a->iova)};
    return 0;
}

static int check(const vfu_ioas *ioas, uint64_t iova, uint64_t length, uint32_t prot)
{
    vfu_extent extent;

    if (length && wraps(iova, length))
        return -EFAULT;
    for (uint64_t done = 0; done < length; done += extent.length) {
        int error = vfu_ioas_extent(ioas, iova + done, length - done, prot, &extent);
        if (error)
            return error;
        if (!extent.source)
            return -EFAULT;
    }
    return 0;
}

/* One direction of a copy, already checked: it fails only where a file was cut since, or refuses. */
static int transfer(const vfu_ioas *ioas, uint64_t iova, uint8_t *buffer, uint64_t length, bool to_space)
{
    vfu_extent extent;
    int error = 0;

    for (uint64_t done = 0; !error && done < length; done += extent.length) {
        vfu_ioas_extent(ioas, iova + done, length - done, 0, &extent);
        error = to_space ? vfu_source_write(extent.source, extent.offset, buffer + done, extent.length)
                         : vfu_source_read(extent.source, extent.offset, buffer + done, extent.length);
    }
    return error;
}

int vfu_ioas_read(vfu_ioas *ioas, uint64_t iova, void *to, uint64_t length)
{
    int error;

    pthread_rwlock_rdlock(&ioas->lock);
    error = check(ioas, iova, length, VFU_PROT_READ);
    if (!error)
        error = transfer(ioas, iova, to, length, false);
    pthread_rwlock_unlock(&ioas->lock);
    return error;
}

int vfu_ioas_write(vfu_ioas *ioas, uint64_t iova, const void *from, uint64_t length)
{
    int error;

    pthread_rwlock_rdlock(&ioas->lock);
    error = check(ioas, iova, length, VFU_PROT_WRITE);
    if (!error)
        error = transfer(ioas, iova, (uint8_t *)from, length, true);
    pthread_rwlock_unlock(&ioas->lock);
    return error;
}

int vfu_ioas_copy(vfu_ioas *ioas, uint64_t source, uint64_t destination, uint64_t length)
{
    vfu_extent in, out;
    int error;

    pthread_rwlock_rdlock(&ioas->lock);
    error = check(ioas, source, length, VFU_PROT_READ);
    if (!error)
        error = check(ioas, destination, length, VFU_PROT_WRITE);
    for (uint64_t done = 0; !error && done < length; done += out.length) {
        vfu_ioas_extent(ioas, source + done, length - done, 0, &in);
        vfu_ioas_extent(ioas, destination + done, in.length, 0, &out);
        error = vfu_source_copy(in.source, in.offset, out.source, out.offset, out.length);
    }
    pthread_rwlock_unlock(&ioas->lock);
    return error;
}
