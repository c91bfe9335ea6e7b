#include "pin.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "access.h"

enum { PAGE = 4096 };

static bool touches(uint64_t at, uint64_t length, uint64_t iova, uint64_t last)
{
    return at <= last && vfu_last(at, length) >= iova;
}

/* -- making --------------------------------------------------------------------------------------------------------- */

/* A second mapping of shared pages that have no descriptor here: mremap with an old size of 0 makes one (mremap(2)). */
static int map_again(uint8_t *at, uint8_t *pages, size_t size, int prot)
{
    if (mremap(pages, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED || mprotect(at, size, prot) < 0)
        return -errno;
    return 0;
}

/* Puts the pages of one extent where they belong in the view. */
static int map_extent(const vfu_pin *pin, const vfu_extent *e)
{
    int prot = PROT_READ | (pin->prot & VFU_PROT_WRITE ? PROT_WRITE : 0);
    uint8_t *at = pin->view + (e->iova - pin->iova);
    uint64_t slack = (uintptr_t)at % PAGE;

    if (e->offset % PAGE != slack || (slack && e->iova != pin->iova))
        return -EINVAL; /* bytes of two areas would have to share a page */
    if (e->source->foreign)
        return map_again(at - slack, e->address - slack, e->length + slack, prot);
    if (mmap(at - slack, e->length + slack, prot, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, e->source->fd,
             (off_t)(e->offset - slack)) == MAP_FAILED)
        return -errno;
    return 0;
}

static int add_part(vfu_pin *pin, const vfu_extent *e)
{
    if ((pin->parts & (pin->parts - 1)) == 0) { /* full at every power of two */
        vfu_part *part = realloc(pin->part, (pin->parts ? 2 * pin->parts : 1) * sizeof(*part));
        if (!part)
            return -ENOMEM;
        pin->part = part;
    }
    pin->part[pin->parts++] = (vfu_part){.iova = e->iova, .length = e->length};
    return 0;
}

static int map_all(const vfu_ioas *ioas, vfu_pin *pin)
{
    vfu_extent e;
    int error = 0;

    for (uint64_t done = 0; !error && done < pin->length; done += e.length) {
        error = vfu_ioas_extent(ioas, pin->iova + done, pin->length - done, pin->prot, &e);
        if (!error && (e.access != VFU_ACCESS_MAPPED || e.unproven))
            error = -ENOTCONN;
        if (!error)
            error = map_extent(pin, &e);
        if (!error)
            error = add_part(pin, &e);
    }
    return error;
}

static int reserve(vfu_pin *pin)
{
    uint64_t slack = pin->iova % PAGE;

    pin->size = (slack + pin->length + PAGE - 1) / PAGE * PAGE;
    pin->base = mmap(NULL, pin->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pin->base == MAP_FAILED) {
        pin->base = NULL;
        return -errno;
    }
    pin->view = pin->base + slack;
    pin->guard = vfu_guard_add(pin->base, pin->size, VFU_FAULT_ZEROES);
    return pin->guard ? 0 : -ENOMEM;
}

static void destroy(vfu_pin *pin)
{
    if (pin->guard)
        vfu_guard_remove(pin->guard);
    if (pin->base)
        munmap(pin->base, pin->size);
    free(pin->part);
    free(pin);
}

static int enlist(vfu_ioas *ioas, vfu_pin *pin)
{
    int error;

    pthread_rwlock_wrlock(&ioas->lock);
    error = vfu_ioas_permitted(ioas);
    if (!error)
        error = ioas->pinned < ioas->max_pins ? map_all(ioas, pin) : -ENOSPC;
    if (!error) {
        pin->ioas = ioas;
        pin->next = ioas->pins;
        ioas->pins = pin;
        ioas->pinned++;
    }
    pthread_rwlock_unlock(&ioas->lock);
    return error;
}

vfu_pin *vfu_pin_new(vfu_ioas *ioas, uint64_t iova, uint64_t length, uint32_t prot, int *error)
{
    vfu_pin *pin;

    if (!length || vfu_last(iova, length) < iova || length > SIZE_MAX / 2) {
        *error = -EINVAL;
        return NULL;
    }
    pin = malloc(sizeof(*pin));
    if (!pin) {
        *error = -ENOMEM;
        return NULL;
    }
    *pin = (vfu_pin){.iova = iova, .length = length, .prot = prot};
    *error = reserve(pin);
    if (!*error)
        *error = enlist(ioas, pin);
    if (!*error)
        return pin;
    destroy(pin);
    return NULL;
}

/* -- ending --------------------------------------------------------------------------------------------------------- */

static void replace_by_zeros(vfu_pin *pin)
{
    if (mmap(pin->base, pin->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
             0) == MAP_FAILED)
        abort(); /* the client was promised that nothing touches its memory any more */
    atomic_store(&pin->revoked, true);
}

static void delist(vfu_ioas *ioas, vfu_pin *pin)
{
    vfu_pin **link = &ioas->pins;

    while (*link != pin)
        link = &(*link)->next;
    *link = pin->next;
    ioas->pinned--;
    pin->ioas = NULL;
}

static void mark(const vfu_ioas *ioas, const vfu_pin *pin)
{
    if (!ioas->dirty || !(pin->prot & VFU_PROT_WRITE))
        return;
    for (size_t i = 0; i < pin->parts; i++)
        if (!pin->part[i].stale)
            vfu_dirty_mark(ioas->dirty, pin->part[i].iova, pin->part[i].length);
}

static void revoke(vfu_ioas *ioas, vfu_pin *pin)
{
    replace_by_zeros(pin);
    mark(ioas, pin);
    delist(ioas, pin);
}

void vfu_pin_revoke(vfu_pin *pin)
{
    vfu_ioas *ioas = pin->ioas;

    if (!ioas)
        return;
    pthread_rwlock_wrlock(&ioas->lock);
    if (pin->ioas)
        revoke(ioas, pin);
    pthread_rwlock_unlock(&ioas->lock);
}

void vfu_pin_free(vfu_pin *pin)
{
    vfu_pin_revoke(pin);
    destroy(pin);
}

bool vfu_pin_valid(const vfu_pin *pin)
{
    return !atomic_load(&pin->revoked) && !vfu_guard_hit(pin->guard);
}

/* -- all views of a space ------------------------------------------------------------------------------------------- */

size_t vfu_pins_in(vfu_ioas *ioas, uint64_t iova, uint64_t last)
{
    size_t count = 0;

    pthread_rwlock_rdlock(&ioas->lock);
    for (const vfu_pin *pin = ioas->pins; pin; pin = pin->next)
        count += touches(pin->iova, pin->length, iova, last);
    pthread_rwlock_unlock(&ioas->lock);
    return count;
}

size_t vfu_pins_revoke(vfu_ioas *ioas, uint64_t iova, uint64_t last)
{
    size_t count = 0;

    pthread_rwlock_wrlock(&ioas->lock);
    for (vfu_pin *pin = ioas->pins, *next; pin; pin = next) {
        next = pin->next;
        if (touches(pin->iova, pin->length, iova, last)) {
            revoke(ioas, pin);
            count++;
        }
    }
    pthread_rwlock_unlock(&ioas->lock);
    return count;
}

void vfu_pins_detach(vfu_ioas *ioas, uint64_t iova, uint64_t last)
{
    for (const vfu_pin *pin = ioas->pins; pin; pin = pin->next)
        for (size_t i = 0; i < pin->parts; i++)
            if (touches(pin->part[i].iova, pin->part[i].length, iova, last))
                pin->part[i].stale = true;
}

void vfu_pins_mark(vfu_ioas *ioas)
{
    for (const vfu_pin *pin = ioas->pins; pin; pin = pin->next)
        mark(ioas, pin);
}
