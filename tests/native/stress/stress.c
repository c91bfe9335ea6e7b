/* Threads of DMA against map, unmap, share, report, views and the gate, for as long as it is told: `make sanitize` builds it with
 * the core under the sanitizers.
 *
 * Four threads play devices. The reporter plays the client of a migration: it copies every page that a report calls
 * dirty, so after each its copy is at least as new as the stores that had returned before it, or a bit was lost (S3.19);
 * at the end it equals the memory. The mapper maps and unmaps slots; after an
 * unmap it fills the file's page and looks whether anybody still writes there, and a device that starts after it and
 * succeeds has broken the promise of the reply (S1.9).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../../../native/core/access.h"
#include "../../../native/core/pin.h"
#include "stress.h"

enum {
    PAGE = 4096,
    DEVICES = 4,
    STEADY = 64,     /* pages that are always mapped, from IOVA 0 on */
    OWN = 4,         /* pages after them that only one device stores to, by device: numbers that grow */
    STAMPED = DEVICES * OWN,
    COUNTER = STEADY + STAMPED, /* the page after those: everybody adds to its first word */
    MIRRORED = COUNTER + 1,     /* pages that the reporter copies */
    SLOTS = 16,                 /* pages that come and go, each with a hole behind it */
    SLOT_PAGE = 128,            /* the first of them, in pages */
    PAGES = MIRRORED + SLOTS,
    LONGEST = 3 * PAGE,
    FILL = 0xA5,
    BOTH = VFU_PROT_READ | VFU_PROT_WRITE,
};

static vfu_ioas space, other;
static int memory, disk;
static uint8_t *client; /* the client's own mapping */
static uint8_t copy[MIRRORED * PAGE];
atomic_bool stop;
static atomic_ullong done, added, views, revoked, unmaps, reports;
static atomic_uint generation[SLOTS];   /* odd: it may be mapped */
static atomic_ullong stored[STAMPED]; /* the last number whose store has returned */

static void fail(const char *what, long got)
{
    fprintf(stderr, "stress: %s (%ld)\n", what, got);
    _exit(1);
}

void must(bool good, const char *what, long got)
{
    if (!good)
        fail(what, got);
}

/* -- devices -------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t dice, stamp;
    size_t first; /* of its own pages, in `stored` */
    uint8_t buffer[LONGEST];
} Device;

static uint64_t roll(Device *d, uint64_t sides)
{
    d->dice ^= d->dice << 13;
    d->dice ^= d->dice >> 7;
    d->dice ^= d->dice << 17;
    return d->dice % sides;
}

/* A range of the steady pages. */
static vfu_piece somewhere(Device *d)
{
    uint64_t length = 1 + roll(d, roll(d, 2) ? LONGEST : 64);

    return (vfu_piece){roll(d, STEADY * PAGE - length), length};
}

/* What is stored through a view races with other devices', and with the view's end, by design. */
__attribute__((no_sanitize("thread"))) static void touch(volatile uint8_t *at, uint8_t value)
{
    *at = value;
}

static void write_some(Device *d)
{
    vfu_piece p = somewhere(d);

    memset(d->buffer, (int)roll(d, 256), p.length);
    must(vfu_ioas_write(&space, p.iova, d->buffer, p.length) == 0, "a write was refused", 0);
}

static void read_some(Device *d)
{
    vfu_piece p = somewhere(d);

    must(vfu_ioas_read(&space, p.iova, d->buffer, p.length) == 0, "a read was refused", 0);
}

static void copy_some(Device *d)
{
    vfu_piece from = somewhere(d), to = somewhere(d);
    uint64_t length = from.length < to.length ? from.length : to.length;

    must(vfu_ioas_copy(&space, from.iova, to.iova, length) == 0, "a copy was refused", 0);
}

static void add_one(Device *d)
{
    uint64_t old;

    (void)d;
    must(vfu_ioas_atomic(&space, VFU_ADD, COUNTER * PAGE, 8, 1, 0, &old) == 0, "an addition was refused", 0);
    atomic_fetch_add(&added, 1);
}

static void fill_from_disk(Device *d)
{
    vfu_piece p[] = {somewhere(d), somewhere(d), somewhere(d)};
    ssize_t moved = vfu_ioas_preadv(&space, disk, p, 3, (off_t)roll(d, PAGE));

    must(moved == (ssize_t)(p[0].length + p[1].length + p[2].length), "preadv fell short", moved);
}

static void write_to_disk(Device *d)
{
    vfu_piece p[] = {somewhere(d), somewhere(d)};
    ssize_t moved = vfu_ioas_pwritev(&space, disk, p, 2, (off_t)roll(d, PAGE));

    must(moved == (ssize_t)(p[0].length + p[1].length), "pwritev fell short", moved);
}

static void use_view(Device *d, vfu_pin *pin)
{
    for (uint64_t i = roll(d, 8); i > 0; i--)
        touch(pin->view + roll(d, pin->length), (uint8_t)d->dice);
    if (roll(d, 8) == 0)
        sched_yield();
    vfu_pin_free(pin);
    atomic_fetch_add(&views, 1);
}

static void view_some(Device *d)
{
    vfu_piece p = somewhere(d);
    int error = 0;
    vfu_pin *pin = vfu_pin_new(&space, p.iova, p.length, BOTH, &error);

    must(pin, "a view was refused", error);
    use_view(d, pin);
}

/* Where a page's number stands: in its last word, which is stored last. */
static uint64_t place_of(size_t stamped)
{
    return (STEADY + stamped + 1) * PAGE - sizeof(uint64_t);
}

static int store_by_write(Device *d, size_t page)
{
    for (size_t i = 0; i < PAGE; i += sizeof(d->stamp))
        memcpy(d->buffer + i, &d->stamp, sizeof(d->stamp));
    return vfu_ioas_write(&space, (STEADY + page) * PAGE, d->buffer, PAGE);
}

static int store_at_once(Device *d, size_t page)
{
    uint64_t old;

    return vfu_ioas_atomic(&space, VFU_STORE, place_of(page), sizeof(d->stamp), d->stamp, 0, &old);
}

__attribute__((no_sanitize("thread"))) static int store_in_view(Device *d, size_t page)
{
    int error = 0;
    vfu_pin *pin = vfu_pin_new(&space, place_of(page), sizeof(d->stamp), BOTH, &error);

    if (!pin)
        return error;
    *(volatile uint64_t *)pin->view = d->stamp;
    vfu_pin_free(pin);
    return 0;
}

static int store_by_copy(Device *d, size_t page)
{
    int error = store_by_write(d, d->first);

    return error ? error : vfu_ioas_copy(&space, (STEADY + d->first) * PAGE, (STEADY + page) * PAGE, PAGE);
}

static void stamp_own(Device *d)
{
    static int (*const WAY[OWN])(Device *, size_t) = {store_by_write, store_at_once, store_in_view, store_by_copy};
    size_t way = roll(d, OWN), page = d->first + way;

    d->stamp++;
    must(WAY[way](d, page) == 0, "a store was refused: way", (long)way);
    atomic_store(&stored[page], d->stamp);
}

static int try_slot(Device *d, uint64_t iova)
{
    vfu_piece piece = {iova, 64};
    uint64_t old;
    int error = 0;
    vfu_pin *pin;

    switch (roll(d, 5)) {
    case 0: return vfu_ioas_write(&space, iova, d->buffer, PAGE);
    case 1: return vfu_ioas_read(&space, iova, d->buffer, PAGE);
    case 2: return vfu_ioas_atomic(&space, VFU_SWAP, iova, 8, d->dice, 0, &old);
    case 3: error = (int)vfu_ioas_preadv(&space, disk, &piece, 1, 0); return error < 0 ? error : 0;
    }
    pin = vfu_pin_new(&space, iova, PAGE, BOTH, &error);
    if (pin)
        use_view(d, pin);
    return error;
}

static void reach_slot(Device *d)
{
    uint64_t slot = roll(d, SLOTS);
    unsigned before = atomic_load(&generation[slot]);
    int error = try_slot(d, (SLOT_PAGE + 2 * slot) * PAGE);

    must(error == 0 || error == -EFAULT, "a slot answers", error);
    must(error || before % 2 || atomic_load(&generation[slot]) != before, "reached after its unmap returned: slot", (long)slot);
}

static void reach_gated(Device *d)
{
    gated_write(roll(d, UINT32_MAX));
}

static void (*const WORK[])(Device *) = {write_some, write_some, read_some, copy_some,  add_one,   fill_from_disk,
                                         write_to_disk, view_some, reach_gated, reach_slot, reach_slot, reach_slot,
                                         stamp_own,  stamp_own,  stamp_own, stamp_own,  stamp_own, stamp_own};

static void *device(void *argument)
{
    Device *d = argument;

    while (!atomic_load(&stop)) {
        WORK[roll(d, sizeof(WORK) / sizeof(*WORK))](d);
        atomic_fetch_add(&done, 1);
    }
    return NULL;
}

/* -- the client ----------------------------------------------------------------------------------------------------- */

static void check_untouched(const uint8_t *page)
{
    for (int i = 0; i < 16; i++)
        sched_yield();
    for (int i = 0; i < PAGE; i++)
        must(page[i] == FILL, "written after its unmap returned: byte", i);
}

static void *mapper(void *argument)
{
    Device *d = argument;

    while (!atomic_load(&stop)) {
        uint64_t slot = roll(d, SLOTS), iova = (SLOT_PAGE + 2 * slot) * PAGE, at = (MIRRORED + slot) * PAGE;
        atomic_fetch_add(&generation[slot], 1);
        must(vfu_ioas_map(&space, iova, PAGE, BOTH, memory, at, VFU_ACCESS_MAPPED) == 0, "a slot is free", 0);
        must(vfu_ioas_share(&space, iova, PAGE, &other, at, BOTH) == 0, "a slot is shared", 0);
        for (uint64_t i = roll(d, 8); i > 0; i--)
            sched_yield();
        must(vfu_ioas_unmap(&other, at, PAGE) == 1, "the other space's slot goes", 0);
        must(vfu_ioas_unmap(&space, iova, PAGE) == 1, "a slot goes", 0);
        atomic_fetch_add(&revoked, vfu_pins_revoke(&space, iova, iova + PAGE - 1));
        atomic_fetch_add(&generation[slot], 1);
        memset(client + at, FILL, PAGE);
        check_untouched(client + at);
        atomic_fetch_add(&unmaps, 1);
    }
    return NULL;
}

static void take_report(void)
{
    uint8_t bitmap[(MIRRORED + 63) / 64 * 8] = {0};
    uint64_t before[STAMPED], now;

    for (size_t i = 0; i < STAMPED; i++)
        before[i] = atomic_load(&stored[i]);
    must(vfu_ioas_report(&space, 0, MIRRORED, VFU_PAGE_SHIFT, bitmap) == 0, "a report is refused", 0);
    for (int page = 0; page < MIRRORED; page++)
        if (bitmap[page / 8] & 1 << page % 8)
            memcpy(copy + page * PAGE, client + page * PAGE, PAGE);
    for (size_t i = 0; i < STAMPED; i++) {
        memcpy(&now, copy + place_of(i), sizeof(now));
        must(now >= before[i], "a dirty bit was lost: way", (long)i % OWN);
    }
    atomic_fetch_add(&reports, 1);
}

static void *reporter(void *argument)
{
    (void)argument;
    while (!atomic_load(&stop)) {
        take_report();
        must(vfu_ioas_share(&other, 0, PAGE, &space, 0, BOTH) == -ENOENT, "nothing lies there", 0);
        sched_yield();
    }
    return NULL;
}

/* -- all of it ------------------------------------------------------------------------------------------------------ */

static void set_up(void)
{
    memory = memfd_create("stress-memory", MFD_CLOEXEC);
    disk = memfd_create("stress-disk", MFD_CLOEXEC);
    must(ftruncate(memory, PAGES * PAGE) == 0 && ftruncate(disk, 16 * PAGE) == 0, "no memory", errno);
    client = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    must(client != MAP_FAILED, "no mapping", errno);
    vfu_ioas_init(&space);
    vfu_ioas_init(&other);
    for (int page = 0, pages = 1; page < MIRRORED; page += pages, pages = page % 5 + 1) {
        pages = pages < MIRRORED - page ? pages : MIRRORED - page;
        must(vfu_ioas_map(&space, (uint64_t)page * PAGE, (uint64_t)pages * PAGE, BOTH, memory, (uint64_t)page * PAGE,
                          VFU_ACCESS_MAPPED) == 0, "the steady pages", page);
    }
    must(vfu_ioas_log(&space, NULL, 0) == 0, "no log", 0);
}

static bool is_left(void *argument, const vfu_source *source)
{
    *(long *)argument += (long)source->users;
    return true;
}

static void check_all(void)
{
    long left = 0;
    uint64_t sum;

    take_report();
    for (int i = 0; i < MIRRORED * PAGE; i++)
        must(copy[i] == client[i], "a dirty bit was lost: page", i / PAGE);
    memcpy(&sum, client + COUNTER * PAGE, sizeof(sum));
    must(sum == atomic_load(&added), "an addition was lost", (long)sum);
    must(space.pinned == 0, "views are left", (long)space.pinned);
    vfu_ioas_free(&space);
    vfu_ioas_free(&other);
    vfu_sources(is_left, &left);
    must(left == 0, "sources are left", left);
}

int main(int count, char **arguments)
{
    static Device devices[DEVICES], mapping = {.dice = 99};
    struct timespec time = {.tv_sec = count > 1 ? atoi(arguments[1]) : 3};
    pthread_t thread[DEVICES + 3];
    unsigned long long closed;

    set_up();
    gated_set_up();
    for (int i = 0; i < DEVICES; i++) {
        devices[i].dice = (uint64_t)i + 1;
        devices[i].first = (size_t)i * OWN;
        pthread_create(&thread[i], NULL, device, &devices[i]);
    }
    pthread_create(&thread[DEVICES], NULL, mapper, &mapping);
    pthread_create(&thread[DEVICES + 1], NULL, reporter, NULL);
    pthread_create(&thread[DEVICES + 2], NULL, gatekeeper, NULL);
    nanosleep(&time, NULL);
    atomic_store(&stop, true);
    for (int i = 0; i < DEVICES + 3; i++)
        pthread_join(thread[i], NULL);
    closed = gated_end();
    check_all();
    printf("stress: %llu accesses, %llu views (%llu revoked), %llu unmaps, %llu reports, gate closed %llu times\n",
           atomic_load(&done), atomic_load(&views), atomic_load(&revoked), atomic_load(&unmaps), atomic_load(&reports), closed);
    must(done && views && unmaps && reports && closed, "some thread did nothing", 0);
    return 0;
}
