/* An address space as data, and made of data: for the process that goes on with its connection. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "ioas_parts.h"
#include "pin.h"
#include "spans.h"

/* -- areas out ------------------------------------------------------------------------------------------------------ */

/* -ENOTSUP: one is somebody else's mapping, of which there is no descriptor. */
static int record_files(const vfu_ioas *ioas, vfu_ioas_record *r)
{
    for (size_t i = 0; i < ioas->uses; i++) {
        const vfu_use *use = ioas->use[i];
        const vfu_source *s = use->source;
        if (vfu_source_dead(use->source))
            continue;
        if (s->foreign)
            return -ENOTSUP;
        r->file[r->files++] = (vfu_file_record){.source = s->id, .fd = s->fd, .prot = s->prot,
                                                .way = (uint32_t)s->access, .trust = use->trust};
    }
    return 0;
}

static void record_areas(const vfu_ioas *ioas, vfu_ioas_record *r)
{
    vfu_place place = {0};
    vfu_area a;

    for (; vfu_areas_at(&ioas->areas, place, &a); place = vfu_areas_next(&ioas->areas, place)) {
        vfu_source *s = a.use ? a.use->source : NULL;
        r->area[r->areas++] = (vfu_area_record){.iova = a.iova, .size = a.size, .offset = a.offset, .prot = a.prot,
                                                .way = s && !vfu_source_dead(s) ? (uint32_t)s->access : 0,
                                                .source = s ? s->id : 0};
    }
}

int vfu_ioas_carry(vfu_ioas *ioas, vfu_ioas_record *r)
{
    int error = -ENOMEM;

    *r = (vfu_ioas_record){0};
    pthread_rwlock_rdlock(&ioas->lock);
    r->area = malloc((ioas->areas.count + 1) * sizeof(*r->area));
    r->file = malloc((ioas->uses + 1) * sizeof(*r->file));
    if (r->area && r->file)
        error = record_files(ioas, r); /* first: a file may die at any time, and then has no area that needs it */
    if (!error)
        record_areas(ioas, r);
    pthread_rwlock_unlock(&ioas->lock);
    if (error) {
        free(r->area);
        free(r->file);
    }
    return error;
}

/* -- areas in ------------------------------------------------------------------------------------------------------- */

/* What is known about a file while its areas are gone through. */
typedef struct {
    uint64_t start, end; /* what they need of it; end 0: none does */
    vfu_use *use;
} Need;

typedef struct {
    vfu_ioas *ioas;
    const vfu_ioas_record *record;
    Need *need;  /* by file */
    size_t last; /* the file that was looked up last: nearly always the next one, too */
    vfu_use *lost;
} Adoption;

static int by_source(const void *a, const void *b)
{
    const vfu_file_record *x = a, *y = b;

    return (x->source > y->source) - (x->source < y->source);
}

static int check_files(vfu_ioas_record *r)
{
    if (r->files)
        qsort(r->file, r->files, sizeof(*r->file), by_source);
    for (size_t i = 0; i < r->files; i++)
        if (!r->file[i].source || (i && r->file[i].source == r->file[i - 1].source) ||
            (r->file[i].way != VFU_ACCESS_MAPPED && r->file[i].way != VFU_ACCESS_FILE) || r->file[i].trust > VFU_REFUSED)
            return -EINVAL;
    return 0;
}

/* The number of the file in which an area lies; -ENOENT. */
static long file_of(Adoption *a, const vfu_area_record *area)
{
    const vfu_ioas_record *r = a->record;
    const vfu_file_record key = {.source = area->source}, *found;

    if (a->last >= r->files || r->file[a->last].source != area->source) {
        found = r->files ? bsearch(&key, r->file, r->files, sizeof(key), by_source) : NULL;
        if (!found)
            return -ENOENT;
        a->last = (size_t)(found - r->file);
    }
    return (long)a->last;
}

static bool lost(const vfu_area_record *area)
{
    return area->source && area->way == VFU_ACCESS_MESSAGES;
}

/* Notes what an area needs of its file. */
static int need(Adoption *a, const vfu_area_record *area)
{
    const vfu_file_record *file;
    long number;
    Need *n;

    if (!area->source || lost(area))
        return area->way == VFU_ACCESS_MESSAGES ? 0 : -EINVAL;
    number = file_of(a, area);
    if (number < 0)
        return -EINVAL;
    file = &a->record->file[number];
    n = &a->need[number];
    if (area->way != file->way || area->prot & ~file->prot || area->size > UINT64_MAX - area->offset)
        return -EINVAL;
    if (!n->end || area->offset < n->start)
        n->start = area->offset;
    if (area->offset + area->size > n->end)
        n->end = area->offset + area->size;
    return 0;
}

static int check_areas(Adoption *a)
{
    const vfu_ioas_record *r = a->record;
    int error = 0;

    for (size_t i = 0; !error && i < r->areas; i++) {
        const vfu_area_record *area = &r->area[i];
        if (vfu_wraps(area->iova, area->size) || !area->prot || area->prot & ~(uint32_t)(VFU_PROT_READ | VFU_PROT_WRITE) ||
            (i && vfu_last(r->area[i - 1].iova, r->area[i - 1].size) >= area->iova))
            return -EINVAL;
        error = need(a, area);
    }
    return error;
}

static bool was_cut(int fd, uint64_t end)
{
    struct stat st;

    return fstat(fd, &st) == 0 && vfu_file_has_size(fd, &st) && (uint64_t)st.st_size < end;
}

/* One use for all areas whose pages have vanished. */
static vfu_use *use_lost(Adoption *a)
{
    vfu_source *source = a->lost ? NULL : vfu_source_lost();

    if (source)
        a->lost = vfu_ioas_use(a->ioas, source, VFU_TRUSTED);
    return a->lost;
}

static int use_file(Adoption *a, const vfu_file_record *file, Need *n)
{
    vfu_source *source;
    int error = -ENOMEM;

    if (was_cut(file->fd, n->end)) {
        n->use = use_lost(a);
    } else {
        source = vfu_source_get(file->fd, n->start, n->end - n->start, file->prot, file->way, &error);
        if (!source)
            return error;
        n->use = vfu_ioas_use(a->ioas, source, file->trust);
        if (n->use && file->way == VFU_ACCESS_MAPPED && n->use->trust < file->trust)
            n->use->trust = file->trust; /* two sources of a file that has grown are one now */
    }
    return n->use ? 0 : -ENOMEM;
}

static int use_files(Adoption *a)
{
    int error = 0;

    for (size_t i = 0; !error && i < a->record->files; i++)
        if (a->need[i].end)
            error = use_file(a, &a->record->file[i], &a->need[i]);
    return error;
}

static int append(Adoption *a, const vfu_area_record *record)
{
    vfu_area area = {.iova = record->iova, .size = record->size, .offset = record->offset, .prot = record->prot};
    int error = vfu_ioas_room(a->ioas, area.iova, area.size);

    if (error)
        return error;
    if (record->source) {
        area.use = lost(record) ? use_lost(a) : a->need[file_of(a, record)].use;
        if (!area.use)
            return -ENOMEM;
    }
    return vfu_ioas_put(a->ioas, (vfu_place){.leaf = a->ioas->areas.leaves}, &area);
}

static void empty(vfu_ioas *ioas)
{
    vfu_areas_free(&ioas->areas);
    while (ioas->uses)
        vfu_ioas_drop_use(ioas, ioas->use[0]);
    ioas->files = 0;
    ioas->bytes = 0;
}

static int adopt(Adoption *a)
{
    int error = a->ioas->areas.count ? -EBUSY : check_areas(a);

    if (error)
        return error;
    error = use_files(a);
    for (size_t i = 0; !error && i < a->record->areas; i++)
        error = append(a, &a->record->area[i]);
    if (error)
        empty(a->ioas);
    return error;
}

int vfu_ioas_adopt(vfu_ioas *ioas, vfu_ioas_record *record)
{
    Adoption a = {.ioas = ioas, .record = record, .need = calloc(record->files + 1, sizeof(Need))};
    int error = a.need ? check_files(record) : -ENOMEM;

    if (!error) {
        pthread_rwlock_wrlock(&ioas->lock);
        error = adopt(&a);
        pthread_rwlock_unlock(&ioas->lock);
    }
    free(a.need);
    return error;
}

/* -- the log of writes ---------------------------------------------------------------------------------------------- */

static int record_log(vfu_ioas *ioas, vfu_log_record *r)
{
    const vfu_span *span;

    vfu_pins_mark(ioas); /* nobody else will know what was written through views */
    span = vfu_dirty_spans(ioas->dirty, &r->spans);
    r->unreported = ioas->unreported;
    r->span = malloc(r->spans * sizeof(*r->span));
    r->run = vfu_dirty_runs(ioas->dirty, &r->runs);
    if (r->span && r->run) {
        memcpy(r->span, span, r->spans * sizeof(*span));
        return 0;
    }
    free(r->span);
    free(r->run);
    return -ENOMEM;
}

int vfu_ioas_carry_log(vfu_ioas *ioas, vfu_log_record *record)
{
    int error = -ENOENT;

    *record = (vfu_log_record){0};
    pthread_rwlock_rdlock(&ioas->lock);
    if (ioas->dirty)
        error = record_log(ioas, record);
    pthread_rwlock_unlock(&ioas->lock);
    return error;
}

int vfu_ioas_adopt_log(vfu_ioas *ioas, const vfu_log_record *record)
{
    int error;

    for (size_t i = 0; i < record->runs; i++)
        if (record->run[i].iova > record->run[i].last)
            return -EINVAL;
    error = vfu_ioas_log(ioas, record->span, record->spans);
    if (error)
        return error;
    pthread_rwlock_wrlock(&ioas->lock);
    for (size_t i = 0; ioas->dirty && i < record->runs; i++)
        vfu_dirty_mark_run(ioas->dirty, record->run[i]);
    ioas->unreported = record->unreported;
    pthread_rwlock_unlock(&ioas->lock);
    return 0;
}
