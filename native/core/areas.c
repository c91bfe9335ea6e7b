#include "areas.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    FIRST_LEAVES = 4,
    LINE = 64, /* bytes */
    KEYS_OF_A_LINE = LINE / sizeof(uint64_t),
    MERGE_BELOW = VFU_LEAF / 2, /* two leaves of together no more than this become one */
};

void vfu_areas_free(vfu_areas *t)
{
    for (size_t i = 0; i < t->leaves; i++)
        free(t->leaf[i]);
    free(t->leaf);
    free(t->last);
    *t = (vfu_areas){0};
}

/* -- searching --------------------------------------------------------------------------------------------------- */

/* How many of `count` ascending keys are below `value`. Halving without a branch that could be guessed wrong. */
static size_t below(const uint64_t *key, size_t count, uint64_t value)
{
    const uint64_t *at = key;

    if (count == 0)
        return 0;
    while (count > 1) {
        size_t half = count / 2;
        at += (at[half - 1] < value) * half;
        count -= half;
    }
    return (size_t)(at - key) + (*at < value);
}

vfu_place vfu_areas_reaching(const vfu_areas *t, uint64_t iova)
{
    vfu_place place = {.leaf = below(t->last, t->leaves, iova)};

    if (place.leaf < t->leaves) {
        const vfu_leaf *leaf = t->leaf[place.leaf];
        for (size_t i = 0; i < VFU_LEAF; i += KEYS_OF_A_LINE) /* halving would wait for one line after the other */
            __builtin_prefetch(&leaf->last[i]);
        place.index = below(leaf->last, leaf->count, iova);
    }
    return place;
}

vfu_place vfu_areas_next(const vfu_areas *t, vfu_place place)
{
    if (++place.index < t->leaf[place.leaf]->count)
        return place;
    return (vfu_place){.leaf = place.leaf + 1};
}

/* -- changing ---------------------------------------------------------------------------------------------------- */

static void set_last(vfu_areas *t, size_t leaf)
{
    t->last[leaf] = t->leaf[leaf]->last[t->leaf[leaf]->count - 1];
}

static int room_for_leaf(vfu_areas *t)
{
    size_t capacity = t->capacity ? 2 * t->capacity : FIRST_LEAVES;
    vfu_leaf **leaf;
    uint64_t *last;

    if (t->leaves < t->capacity)
        return 0;
    leaf = realloc(t->leaf, capacity * sizeof(*leaf));
    if (leaf)
        t->leaf = leaf;
    last = realloc(t->last, capacity * sizeof(*last));
    if (last)
        t->last = last;
    if (!leaf || !last)
        return -ENOMEM;
    t->capacity = capacity;
    return 0;
}

static int add_leaf(vfu_areas *t, size_t at)
{
    void *lines;
    vfu_leaf *leaf;

    if (room_for_leaf(t) < 0 || posix_memalign(&lines, LINE, sizeof(*leaf)) != 0)
        return -ENOMEM;
    leaf = lines;
    leaf->count = 0;
    memmove(&t->leaf[at + 1], &t->leaf[at], (t->leaves - at) * sizeof(*t->leaf));
    memmove(&t->last[at + 1], &t->last[at], (t->leaves - at) * sizeof(*t->last));
    t->leaf[at] = leaf;
    t->leaves++;
    return 0;
}

static void drop_leaf(vfu_areas *t, size_t at)
{
    free(t->leaf[at]);
    t->leaves--;
    memmove(&t->leaf[at], &t->leaf[at + 1], (t->leaves - at) * sizeof(*t->leaf));
    memmove(&t->last[at], &t->last[at + 1], (t->leaves - at) * sizeof(*t->last));
}

/* Moves `count` areas between two leaves, or inside one; the counts stay. */
static void move(vfu_leaf *to, size_t at, const vfu_leaf *from, size_t first, size_t count)
{
    memmove(&to->last[at], &from->last[first], count * sizeof(*to->last));
    memmove(&to->area[at], &from->area[first], count * sizeof(*to->area));
}

/* The upper half of a full leaf goes into a new one behind it. */
static int split(vfu_areas *t, size_t at)
{
    vfu_leaf *full, *upper;

    if (add_leaf(t, at + 1) < 0)
        return -ENOMEM;
    full = t->leaf[at];
    upper = t->leaf[at + 1];
    upper->count = full->count / 2;
    full->count -= upper->count;
    move(upper, 0, full, full->count, upper->count);
    set_last(t, at);
    set_last(t, at + 1);
    return 0;
}

/* A place in a leaf with room, which `place` means once the area is in. */
static int make_room(vfu_areas *t, vfu_place *place)
{
    if (t->leaves == 0)
        return add_leaf(t, 0);
    if (place->leaf == t->leaves)
        *place = (vfu_place){.leaf = t->leaves - 1, .index = t->leaf[t->leaves - 1]->count};
    if (t->leaf[place->leaf]->count < VFU_LEAF)
        return 0;
    if (place->leaf == t->leaves - 1 && place->index == VFU_LEAF) { /* in ascending order leaves are filled */
        *place = (vfu_place){.leaf = t->leaves};
        return add_leaf(t, t->leaves);
    }
    if (split(t, place->leaf) < 0)
        return -ENOMEM;
    if (place->index > t->leaf[place->leaf]->count) {
        place->index -= t->leaf[place->leaf]->count;
        place->leaf++;
    }
    return 0;
}

int vfu_areas_insert(vfu_areas *t, vfu_place place, const vfu_area *area)
{
    vfu_leaf *leaf;

    if (make_room(t, &place) < 0)
        return -ENOMEM;
    leaf = t->leaf[place.leaf];
    move(leaf, place.index + 1, leaf, place.index, leaf->count - place.index);
    leaf->area[place.index] = (vfu_kept_area){area->iova, area->offset, (uintptr_t)area->use | (area->prot & VFU_PROT_BITS)};
    leaf->last[place.index] = vfu_last(area->iova, area->size);
    leaf->count++;
    t->count++;
    set_last(t, place.leaf);
    return 0;
}

/* Joins a leaf with the one behind it if that leaves room for more. */
static void merge(vfu_areas *t, size_t at)
{
    vfu_leaf *left, *right;

    if (at + 1 >= t->leaves)
        return;
    left = t->leaf[at];
    right = t->leaf[at + 1];
    if (left->count + right->count > MERGE_BELOW)
        return;
    move(left, left->count, right, 0, right->count);
    left->count += right->count;
    set_last(t, at);
    drop_leaf(t, at + 1);
}

void vfu_areas_remove(vfu_areas *t, vfu_place place, size_t count)
{
    size_t leaf_at = place.leaf;

    t->count -= count;
    while (count) {
        vfu_leaf *leaf = t->leaf[leaf_at];
        size_t here = leaf->count - place.index < count ? leaf->count - place.index : count;
        move(leaf, place.index, leaf, place.index + here, leaf->count - place.index - here);
        leaf->count -= here;
        count -= here;
        place.index = 0;
        if (leaf->count) {
            set_last(t, leaf_at);
            leaf_at++;
        } else {
            drop_leaf(t, leaf_at);
        }
    }
    for (size_t at = place.leaf + 2; at-- > (place.leaf ? place.leaf - 1 : 0);)
        merge(t, at);
}
