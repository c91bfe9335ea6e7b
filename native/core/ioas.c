#include "ioas.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ioas_parts.h"
#include "pin.h"
#include "spans.h"

enum { MAX_AREAS = 65535, MAX_PINS = 1024, FIRST_USES = 4 };

/* -- life ---------------------------------------------------------------------------------------------------------- */

int vfu_ioas_init(vfu_ioas *ioas)
{
    pthread_rwlockattr_t attributes;
    int error;

    *ioas = (vfu_ioas){.max_areas = MAX_AREAS, .max_pins = MAX_PINS, .max_bytes = UINT64_MAX};
    pthread_rwlockattr_init(&attributes);
    /* otherwise a device that never stops reading would keep an unmap waiting for ever */
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    error = pthread_rwlock_init(&ioas->lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    return -error;
}

void vfu_ioas_free(vfu_ioas *ioas)
{
    vfu_ioas_clear(ioas);
    vfu_dirty_free(ioas->dirty);
    pthread_rwlock_destroy(&ioas->lock);
    free(ioas->use);
    free(ioas->allowed);
    free(ioas->reserved);
}

/* -- who may come in ------------------------------------------------------------------------------------------------ */

int vfu_ioas_permitted(const vfu_ioas *ioas)
{
    if (vfu_gate_open(ioas->gate, VFU_GATE_MASTER | VFU_GATE_RUNNING))
        return 0;
    return vfu_gate_open(ioas->gate, VFU_GATE_MASTER) ? -VFU_STOPPED : -VFU_NOT_MASTER;
}

int vfu_ioas_enter(vfu_ioas *ioas)
{
    int error;

    pthread_rwlock_rdlock(&ioas->lock);
    error = vfu_ioas_permitted(ioas);
    if (error)
        pthread_rwlock_unlock(&ioas->lock);
    return error;
}

void vfu_ioas_leave(vfu_ioas *ioas)
{
    pthread_rwlock_unlock(&ioas->lock);
}

void vfu_ioas_drain(vfu_ioas *ioas)
{
    pthread_rwlock_wrlock(&ioas->lock);
    pthread_rwlock_unlock(&ioas->lock);
}

/* -- sources in use ------------------------------------------------------------------------------------------------- */

static vfu_use *use_of(const vfu_ioas *ioas, uint64_t source)
{
    for (size_t i = 0; i < ioas->uses; i++)
        if (ioas->use[i]->source->id == source)
            return ioas->use[i];
    return NULL;
}

static bool room_for_use(vfu_ioas *ioas)
{
    size_t capacity = ioas->use_capacity ? 2 * ioas->use_capacity : FIRST_USES;
    vfu_use **use;

    if (ioas->uses < ioas->use_capacity)
        return true;
    use = realloc(ioas->use, capacity * sizeof(vfu_use *));
    if (!use)
        return false;
    ioas->use = use;
    ioas->use_capacity = capacity;
    return true;
}

vfu_use *vfu_ioas_use(vfu_ioas *ioas, vfu_source *source, enum vfu_trust trust)
{
    vfu_use *use = use_of(ioas, source->id);

    if (use) {
        vfu_source_put(source);
        return use;
    }
    use = room_for_use(ioas) ? malloc(sizeof(*use)) : NULL;
    if (!use) {
        vfu_source_put(source);
        return NULL;
    }
    *use = (vfu_use){.source = source, .trust = source->access == VFU_ACCESS_FILE ? VFU_TRUSTED : trust};
    ioas->use[ioas->uses++] = use;
    return use;
}

void vfu_ioas_drop_use(vfu_ioas *ioas, vfu_use *use)
{
    size_t at = 0;

    while (ioas->use[at] != use)
        at++;
    ioas->use[at] = ioas->use[--ioas->uses];
    vfu_source_put(use->source);
    free(use);
}

int vfu_ioas_trust(vfu_ioas *ioas, uint64_t source, enum vfu_trust trust)
{
    vfu_use *use;

    pthread_rwlock_wrlock(&ioas->lock);
    use = use_of(ioas, source);
    if (use)
        use->trust = trust;
    pthread_rwlock_unlock(&ioas->lock);
    return use ? 0 : -ENOENT;
}

/* -- map ----------------------------------------------------------------------------------------------------------- */

int vfu_ioas_room(const vfu_ioas *ioas, uint64_t iova, uint64_t size)
{
    uint64_t last = vfu_last(iova, size);

    if (vfu_spans_overlap(ioas->reserved, ioas->reserveds, iova, last) ||
        (ioas->alloweds && !vfu_spans_cover(ioas->allowed, ioas->alloweds, iova, last)))
        return -EINVAL;
    return ioas->areas.count >= ioas->max_areas || size > ioas->max_bytes - ioas->bytes ? -ENOSPC : 0;
}

/* Where an area goes that starts at `iova`; -EEXIST if something lies there already. */
static int place_for(const vfu_ioas *ioas, uint64_t iova, uint64_t size, vfu_place *place)
{
    vfu_area at;

    *place = vfu_areas_reaching(&ioas->areas, iova);
    return vfu_areas_at(&ioas->areas, *place, &at) && at.iova <= vfu_last(iova, size) ? -EEXIST : 0;
}

/* What an area counted for. */
static void forget(vfu_ioas *ioas, const vfu_area *area)
{
    ioas->bytes -= area->size;
    if (!area->use)
        return;
    ioas->files -= area->use->source->access == VFU_ACCESS_FILE;
    if (--area->use->areas == 0)
        vfu_ioas_drop_use(ioas, area->use);
}

int vfu_ioas_put(vfu_ioas *ioas, vfu_place place, const vfu_area *area)
{
    int error = vfu_areas_insert(&ioas->areas, place, area);

    ioas->bytes += area->size;
    if (area->use) {
        area->use->areas++;
        ioas->files += area->use->source->access == VFU_ACCESS_FILE;
    }
    if (error)
        forget(ioas, area);
    return error;
}

/* Takes over the source's reference, whatever the outcome. */
static int insert(vfu_ioas *ioas, vfu_place place, vfu_area area, vfu_source *source, enum vfu_trust trust)
{
    if (source) {
        area.use = vfu_ioas_use(ioas, source, trust);
        if (!area.use)
            return -ENOMEM;
    }
    return vfu_ioas_put(ioas, place, &area);
}

static int add(vfu_ioas *ioas, vfu_area area, int fd, uint32_t ways)
{
    vfu_source *source = NULL;
    vfu_place place;
    int error = vfu_ioas_room(ioas, area.iova, area.size);

    if (!error)
        error = place_for(ioas, area.iova, area.size, &place);
    if (!error && fd >= 0)
        source = vfu_source_get(fd, area.offset, area.size, area.prot, ways, &error);
    return error ? error : insert(ioas, place, area, source, ioas->new_files);
}

int vfu_ioas_map(vfu_ioas *ioas, uint64_t iova, uint64_t size, uint32_t prot, int fd, uint64_t offset, uint32_t ways)
{
    vfu_area area = {.iova = iova, .size = size, .offset = offset, .prot = prot};
    int error;

    if (vfu_wraps(iova, size) || !(prot & (VFU_PROT_READ | VFU_PROT_WRITE)))
        return -EINVAL;
    pthread_rwlock_wrlock(&ioas->lock);
    error = add(ioas, area, fd, ways);
    pthread_rwlock_unlock(&ioas->lock);
    return error;
}

static int add_foreign(vfu_ioas *ioas, vfu_area area, uint8_t *memory)
{
    uint64_t slack = (uintptr_t)memory % ((uintptr_t)1 << VFU_PAGE_SHIFT);
    vfu_source *source;
    vfu_place place;
    int error = vfu_ioas_room(ioas, area.iova, area.size);

    if (!error)
        error = place_for(ioas, area.iova, area.size, &place);
    if (error)
        return error;
    area.offset = slack;
    source = vfu_source_foreign(memory - slack, area.size + slack, area.prot, &error);
    return source ? insert(ioas, place, area, source, VFU_TRUSTED) : error;
}

int vfu_ioas_map_foreign(vfu_ioas *ioas, uint64_t iova, uint64_t size, uint32_t prot, uint8_t *memory)
{
    vfu_area area = {.iova = iova, .size = size, .prot = prot};
    int error;

    if (vfu_wraps(iova, size) || !(prot & (VFU_PROT_READ | VFU_PROT_WRITE)) || (uintptr_t)memory + size < size)
        return -EINVAL;
    pthread_rwlock_wrlock(&ioas->lock);
    error = add_foreign(ioas, area, memory);
    pthread_rwlock_unlock(&ioas->lock);
    return error;
}

/* -- share --------------------------------------------------------------------------------------------------------- */

static int check_shared(const vfu_ioas *ioas, uint64_t from, uint64_t last, uint32_t prot)
{
    vfu_place place = vfu_areas_reaching(&ioas->areas, from);
    vfu_area a;

    for (uint64_t at = from;; at += a.size, place = vfu_areas_next(&ioas->areas, place)) {
        if (!vfu_areas_at(&ioas->areas, place, &a) || a.iova != at || vfu_last(a.iova, a.size) > last)
            return -ENOENT;
        if ((a.prot & prot) != prot)
            return -EPERM;
        if (vfu_last(a.iova, a.size) == last)
            return 0;
    }
}

static int share_one(vfu_ioas *with, const vfu_area *a, uint64_t iova, uint32_t prot)
{
    vfu_area area = {.iova = iova, .size = a->size, .offset = a->offset, .prot = prot};
    vfu_place place;
    int error = vfu_ioas_room(with, iova, a->size);

    if (!error)
        error = place_for(with, iova, a->size, &place);
    if (error)
        return error;
    if (a->use)
        vfu_source_hold(a->use->source);
    return insert(with, place, area, a->use ? a->use->source : NULL, a->use ? a->use->trust : VFU_TRUSTED);
}

static long remove_inside(vfu_ioas *ioas, uint64_t iova, uint64_t last);

static int share(vfu_ioas *ioas, uint64_t from, uint64_t size, vfu_ioas *with, uint64_t to, uint32_t prot)
{
    uint64_t last = vfu_last(from, size);
    int error = check_shared(ioas, from, last, prot);
    uint64_t done = 0;
    vfu_area a = {0};

    while (!error && done < size) {
        vfu_areas_at(&ioas->areas, vfu_areas_reaching(&ioas->areas, from + done), &a);
        error = share_one(with, &a, to + done, prot);
        if (!error)
            done += a.size;
    }
    if (error && done)
        remove_inside(with, to, vfu_last(to, done));
    return error;
}

int vfu_ioas_share(vfu_ioas *ioas, uint64_t from, uint64_t size, vfu_ioas *with, uint64_t to, uint32_t prot)
{
    vfu_ioas *first = ioas < with ? ioas : with, *second = ioas < with ? with : ioas;
    int error;

    if (vfu_wraps(from, size) || vfu_wraps(to, size) || !(prot & (VFU_PROT_READ | VFU_PROT_WRITE)))
        return -EINVAL;
    pthread_rwlock_wrlock(&first->lock); /* two spaces: the lower address first */
    if (second != first)
        pthread_rwlock_wrlock(&second->lock);
    error = share(ioas, from, size, with, to, prot);
    if (second != first)
        pthread_rwlock_unlock(&second->lock);
    pthread_rwlock_unlock(&first->lock);
    return error;
}

/* -- unmap --------------------------------------------------------------------------------------------------------- */

static long remove_inside(vfu_ioas *ioas, uint64_t iova, uint64_t last)
{
    vfu_place first = vfu_areas_reaching(&ioas->areas, iova), place = first;
    size_t count = 0;
    vfu_area a;

    for (; vfu_areas_at(&ioas->areas, place, &a) && a.iova <= last; place = vfu_areas_next(&ioas->areas, place)) {
        if (a.iova < iova || vfu_last(a.iova, a.size) > last)
            return -ENOENT;
        count++;
    }
    if (!count)
        return -ENOENT;
    place = first;
    for (size_t i = 0; i < count; i++, place = vfu_areas_next(&ioas->areas, place)) {
        vfu_areas_at(&ioas->areas, place, &a);
        forget(ioas, &a);
    }
    vfu_areas_remove(&ioas->areas, first, count);
    vfu_pins_detach(ioas, iova, last);
    if (ioas->dirty)
        ioas->unreported += vfu_dirty_forget(ioas->dirty, iova, last);
    return (long)count;
}

long vfu_ioas_unmap(vfu_ioas *ioas, uint64_t iova, uint64_t size)
{
    long removed;

    if (vfu_wraps(iova, size))
        return -EINVAL;
    pthread_rwlock_wrlock(&ioas->lock);
    removed = remove_inside(ioas, iova, vfu_last(iova, size));
    pthread_rwlock_unlock(&ioas->lock);
    return removed;
}

long vfu_ioas_unmap_at_once(vfu_ioas *ioas, uint64_t iova, uint64_t size)
{
    long removed = -EBUSY;

    if (vfu_wraps(iova, size))
        return -EINVAL;
    if (pthread_rwlock_trywrlock(&ioas->lock) != 0)
        return -EBUSY;
    if (!ioas->pinned)
        removed = remove_inside(ioas, iova, vfu_last(iova, size));
    pthread_rwlock_unlock(&ioas->lock);
    return removed;
}

size_t vfu_ioas_clear(vfu_ioas *ioas)
{
    size_t removed;

    pthread_rwlock_wrlock(&ioas->lock);
    removed = ioas->areas.count;
    if (removed)
        remove_inside(ioas, 0, UINT64_MAX);
    vfu_areas_free(&ioas->areas);
    pthread_rwlock_unlock(&ioas->lock);
    vfu_pins_revoke(ioas, 0, UINT64_MAX);
    return removed;
}

/* -- dirty logging -------------------------------------------------------------------------------------------------- */

int vfu_ioas_log(vfu_ioas *ioas, const vfu_span *span, size_t spans)
{
    int error;
    vfu_span *sorted = vfu_spans_sorted(span, spans, &error);
    vfu_dirty *dirty = error ? NULL : vfu_dirty_new(sorted, spans);

    free(sorted);
    if (!dirty)
        return error ? error : -ENOMEM;
    pthread_rwlock_wrlock(&ioas->lock);
    if (ioas->dirty)
        error = -EALREADY;
    else
        ioas->dirty = dirty;
    pthread_rwlock_unlock(&ioas->lock);
    if (error)
        vfu_dirty_free(dirty);
    return error;
}

int vfu_ioas_log_stop(vfu_ioas *ioas)
{
    vfu_dirty *dirty;

    pthread_rwlock_wrlock(&ioas->lock);
    dirty = ioas->dirty;
    ioas->dirty = NULL;
    pthread_rwlock_unlock(&ioas->lock);
    vfu_dirty_free(dirty);
    return dirty ? 0 : -ENOENT;
}

int vfu_ioas_report(vfu_ioas *ioas, uint64_t iova, uint64_t pages, unsigned shift, uint8_t *bitmap)
{
    bool logging;

    if (iova % ((uint64_t)1 << VFU_PAGE_SHIFT))
        return -EINVAL;
    pthread_rwlock_rdlock(&ioas->lock); /* the log cannot go; marking goes on */
    logging = ioas->dirty;
    if (logging) {
        vfu_pins_mark(ioas);
        vfu_dirty_report(ioas->dirty, iova, pages, shift, bitmap);
    }
    pthread_rwlock_unlock(&ioas->lock);
    return logging ? 0 : -ENOENT;
}
