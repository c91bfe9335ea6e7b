#include "dirty.h"

#include <stdlib.h>
#include <string.h>

/* A page number has 52 bits: three levels of pointers, then a leaf of bits that covers 128 MiB. */
enum {
    LEAF_BITS = 15,
    LOW_BITS = 12,
    MIDDLE_BITS = 12,
    ROOT_BITS = 64 - VFU_PAGE_SHIFT - LEAF_BITS - LOW_BITS - MIDDLE_BITS,
    WORD = 64,
    WORDS = (1 << LEAF_BITS) / WORD,
};

/* A guest of 1 TiB takes 32 MiB; a client that spreads its maps over 2^64 could make it gigabytes. */
static const size_t MOST_BYTES = (size_t)256 << 20;

static const struct {
    unsigned shift, bits;
} LEVEL[] = {
    {LEAF_BITS + LOW_BITS + MIDDLE_BITS, ROOT_BITS},
    {LEAF_BITS + LOW_BITS, MIDDLE_BITS},
    {LEAF_BITS, LOW_BITS},
};

enum { LEVELS = sizeof(LEVEL) / sizeof(LEVEL[0]) };

static const vfu_span everywhere = {0, UINT64_MAX};

typedef void *_Atomic Slot;

typedef struct {
    _Atomic uint64_t word[WORDS];
} Leaf;

struct vfu_dirty {
    Slot *root;
    atomic_bool everything; /* a leaf could not be had */
    atomic_size_t bytes;    /* of all tables and leaves */
    size_t spans;
    vfu_span span[];
};

/* -- life ---------------------------------------------------------------------------------------------------------- */

vfu_dirty *vfu_dirty_new(const vfu_span *span, size_t spans)
{
    vfu_dirty *d;

    if (!spans) {
        span = &everywhere;
        spans = 1;
    }
    d = calloc(1, sizeof(*d) + spans * sizeof(*span));
    if (!d)
        return NULL;
    d->root = calloc((size_t)1 << ROOT_BITS, sizeof(Slot));
    if (!d->root) {
        free(d);
        return NULL;
    }
    d->spans = spans;
    memcpy(d->span, span, spans * sizeof(*span));
    return d;
}

static void free_level(Slot *table, unsigned level)
{
    for (size_t i = 0; i < (size_t)1 << LEVEL[level].bits; i++) {
        void *below = atomic_load(&table[i]);
        if (below && level + 1 < LEVELS)
            free_level(below, level + 1);
        else
            free(below);
    }
    free(table);
}

void vfu_dirty_free(vfu_dirty *d)
{
    if (!d)
        return;
    free_level(d->root, 0);
    free(d);
}

/* -- finding leaves ------------------------------------------------------------------------------------------------ */

static size_t index_in(unsigned level, uint64_t page)
{
    return (page >> LEVEL[level].shift) & (((uint64_t)1 << LEVEL[level].bits) - 1);
}

static void *grow(vfu_dirty *d, Slot *slot, unsigned level)
{
    size_t bytes = level + 1 < LEVELS ? sizeof(Slot) << LEVEL[level + 1].bits : sizeof(Leaf);
    void *nothing = NULL, *fresh = atomic_load(&d->bytes) < MOST_BYTES ? calloc(1, bytes) : NULL;

    atomic_fetch_add(&d->bytes, fresh ? bytes : 0);
    if (fresh && !atomic_compare_exchange_strong(slot, &nothing, fresh)) {
        free(fresh); /* another thread was first */
        atomic_fetch_sub(&d->bytes, bytes);
        fresh = nothing;
    }
    return fresh;
}

static Leaf *leaf_for(vfu_dirty *d, uint64_t page)
{
    void *at = d->root;

    for (unsigned level = 0; at && level < LEVELS; level++) {
        Slot *slot = (Slot *)at + index_in(level, page);
        at = atomic_load_explicit(slot, memory_order_acquire);
        if (!at)
            at = grow(d, slot, level);
    }
    return at;
}

/* The leaf of a page, or NULL and in *page the first page that the missing part does not cover (0: none is left). */
static Leaf *leaf_or_skip(const vfu_dirty *d, uint64_t *page)
{
    void *at = d->root;

    for (unsigned level = 0; level < LEVELS; level++) {
        at = atomic_load_explicit((Slot *)at + index_in(level, *page), memory_order_acquire);
        if (!at) {
            uint64_t covered = (uint64_t)1 << LEVEL[level].shift;
            *page = (*page | (covered - 1)) + 1;
            return NULL;
        }
    }
    return at;
}

/* -- words --------------------------------------------------------------------------------------------------------- */

static uint64_t mask_of(unsigned from, unsigned to)
{
    return (~(uint64_t)0 << from) & (~(uint64_t)0 >> (WORD - 1 - to));
}

/* The part of [page, last] in the word of `page`: its bits, and the page after it. */
static uint64_t part(uint64_t page, uint64_t last, uint64_t *next)
{
    uint64_t end = page | (WORD - 1);

    if (end > last)
        end = last;
    *next = end + 1;
    return mask_of(page % WORD, end % WORD);
}

static _Atomic uint64_t *word_of(Leaf *leaf, uint64_t page)
{
    return &leaf->word[(page & ((1 << LEAF_BITS) - 1)) / WORD];
}

void vfu_dirty_mark(vfu_dirty *d, uint64_t iova, uint64_t length)
{
    uint64_t page = iova >> VFU_PAGE_SHIFT, last = (iova + (length - 1)) >> VFU_PAGE_SHIFT, next;

    if (!length)
        return;
    for (; page <= last; page = next) {
        Leaf *leaf = leaf_for(d, page);
        uint64_t mask = part(page, last, &next);
        if (leaf)
            atomic_fetch_or(word_of(leaf, page), mask);
        else
            atomic_store(&d->everything, true);
    }
}

typedef void Take(void *argument, uint64_t page, uint64_t bits);

/* Calls take(argument, first page of a word, bits of it) for every word with dirty pages in [page, last], and clears
 * these unless they are to be `kept`. */
static void take_all(vfu_dirty *d, uint64_t page, uint64_t last, bool kept, Take *take, void *argument)
{
    uint64_t next;

    while (page <= last) {
        Leaf *leaf = leaf_or_skip(d, &page);
        uint64_t end = page | ((1 << LEAF_BITS) - 1);
        if (!leaf)
            continue;
        for (; page <= last && page <= end; page = next) {
            uint64_t mask = part(page, last, &next);
            _Atomic uint64_t *word = word_of(leaf, page);
            uint64_t bits = atomic_load_explicit(word, memory_order_relaxed) & mask;
            if (!bits)
                continue;
            take(argument, page & ~(uint64_t)(WORD - 1), kept ? bits : atomic_fetch_and(word, ~mask) & mask);
        }
    }
}

/* The part of [iova, last] that span `i` logs, if there is one. */
static bool logged(const vfu_dirty *d, size_t i, uint64_t iova, uint64_t last, vfu_span *part)
{
    part->iova = d->span[i].iova > iova ? d->span[i].iova : iova;
    part->last = d->span[i].last < last ? d->span[i].last : last;
    return part->iova <= part->last;
}

static void take_logged(vfu_dirty *d, uint64_t iova, uint64_t last, bool kept, Take *take, void *argument)
{
    vfu_span part;

    for (size_t i = 0; i < d->spans; i++)
        if (logged(d, i, iova, last, &part))
            take_all(d, part.iova >> VFU_PAGE_SHIFT, part.last >> VFU_PAGE_SHIFT, kept, take, argument);
}

/* -- reports ------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t iova;
    unsigned shift;
    uint8_t *bitmap;
} Report;

/* The bit for a place inside the range. */
static uint64_t bit_of(const Report *r, uint64_t iova)
{
    return (iova - r->iova) >> r->shift;
}

static void set_bit(const Report *r, uint64_t n)
{
    r->bitmap[n / 8] |= (uint8_t)(1 << n % 8);
}

static void take_report(void *argument, uint64_t page, uint64_t bits)
{
    for (; bits; bits &= bits - 1)
        set_bit(argument, bit_of(argument, (page + (uint64_t)__builtin_ctzll(bits)) << VFU_PAGE_SHIFT));
}

static uint64_t page_last(uint64_t iova, uint64_t pages, unsigned shift)
{
    return iova + ((pages << shift) - 1); /* pages << shift may be exactly 2^64 */
}

static void report_everything(const vfu_dirty *d, const Report *r, uint64_t last)
{
    vfu_span part;

    for (size_t i = 0; i < d->spans; i++)
        if (logged(d, i, r->iova, last, &part))
            for (uint64_t n = bit_of(r, part.iova); n <= bit_of(r, part.last); n++)
                set_bit(r, n);
}

void vfu_dirty_report(vfu_dirty *d, uint64_t iova, uint64_t pages, unsigned shift, uint8_t *bitmap)
{
    Report report = {.iova = iova, .shift = shift, .bitmap = bitmap};
    uint64_t last = page_last(iova, pages, shift);

    if (!pages)
        return;
    take_logged(d, iova, last, false, take_report, &report);
    if (atomic_load(&d->everything))
        report_everything(d, &report, last);
}

static void take_count(void *argument, uint64_t page, uint64_t bits)
{
    (void)page;
    *(uint64_t *)argument += (uint64_t)__builtin_popcountll(bits);
}

uint64_t vfu_dirty_forget(vfu_dirty *d, uint64_t iova, uint64_t last)
{
    uint64_t count = 0;

    take_logged(d, iova, last, false, take_count, &count);
    return count;
}

/* -- as data ------------------------------------------------------------------------------------------------------- */

typedef struct {
    vfu_span run[VFU_MOST_RUNS];
    size_t count;
    uint64_t near; /* pages: runs with fewer than so many clean ones between are one */
} Runs;

static bool joins(const Runs *r, vfu_span before, uint64_t iova)
{
    return iova <= before.last || (iova - before.last - 1) >> VFU_PAGE_SHIFT < r->near;
}

static void append(Runs *r, vfu_span run)
{
    vfu_span *before = r->count ? &r->run[r->count - 1] : NULL;

    if (!before || !joins(r, *before, run.iova))
        r->run[r->count++] = run;
    else if (run.last > before->last) /* two spans may meet in a page */
        before->last = run.last;
}

/* Rather too many pages are said to be dirty than more runs kept than anybody can pass on. */
static void thin_out(Runs *r)
{
    while (r->count > VFU_MOST_RUNS / 2) {
        size_t count = r->count;
        r->near *= 2;
        r->count = 0;
        for (size_t i = 0; i < count; i++)
            append(r, r->run[i]);
    }
}

static void take_runs(void *argument, uint64_t page, uint64_t bits)
{
    while (bits) {
        unsigned from = (unsigned)__builtin_ctzll(bits);
        uint64_t clean = ~(bits >> from);
        unsigned pages = clean ? (unsigned)__builtin_ctzll(clean) : WORD;
        uint64_t iova = (page + from) << VFU_PAGE_SHIFT;
        append(argument, (vfu_span){iova, iova + (((uint64_t)pages << VFU_PAGE_SHIFT) - 1)});
        if (((Runs *)argument)->count == VFU_MOST_RUNS)
            thin_out(argument);
        bits = from + pages < WORD ? bits & (~(uint64_t)0 << (from + pages)) : 0;
    }
}

vfu_span *vfu_dirty_runs(vfu_dirty *d, size_t *runs)
{
    Runs *r = malloc(sizeof(*r));

    if (!r)
        return NULL;
    r->count = 0;
    r->near = 1;
    if (atomic_load(&d->everything))
        append(r, everywhere);
    else
        take_logged(d, 0, UINT64_MAX, true, take_runs, r);
    *runs = r->count;
    return r->run; /* the first of what was allocated */
}

void vfu_dirty_mark_run(vfu_dirty *d, vfu_span run)
{
    if (run.iova == everywhere.iova && run.last == everywhere.last)
        atomic_store(&d->everything, true);
    else
        vfu_dirty_mark(d, run.iova, run.last - run.iova + 1);
}

const vfu_span *vfu_dirty_spans(const vfu_dirty *d, size_t *spans)
{
    *spans = d->spans;
    return d->span;
}
