/*
 * pcitool's DMA of testdev (devices/testdev): each command of its engine, every byte of the memory around it compared;
 * with physical addresses and no driver, or through vfio-pci with an IOMMU. And single copies between any addresses.
 */

#include "pcitool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    SCRATCH = 0x04, DOORBELL = 0x10, RUNG = 0x14, SOURCE = 0x20, DESTINATION = 0x28, LENGTH = 0x30, COMMAND = 0x34, STATUS = 0x38,
    COPY = 1, TO_BUFFER = 2, FROM_BUFFER = 3, FILL = 4, NO_COMMAND = 5,
    BUSY = 1, DONE = 2,
    SECONDS = 20, GUARD = 0xa5, FILLED = 0x3c,
    PAGES = 32, HALF = PAGES / 2, SIZE = PAGES * PAGE,
    IOVA = 0x1000000,
    MEMORY = 0x90000, MEMORY_WORDS = 1024, EVERY = 16,
};
static const uint32_t FAILED = 0x80000000u;

/* The memory of the checks: a source half and a destination half, and where the device sees each page. */
struct arena {
    struct window bar, config;
    uint8_t *memory;
    uint64_t address[PAGES];
    uint8_t expected[SIZE];
    uint64_t moved;
};

static uint32_t engine(const struct window *bar, uint32_t command, uint64_t source, uint64_t destination, uint64_t length)
{
    uint32_t status;
    double deadline = now_ns() + SECONDS * 1e9;

    store(bar, SOURCE, 8, source);
    store(bar, DESTINATION, 8, destination);
    store(bar, LENGTH, 4, length);
    store(bar, COMMAND, 4, command);
    errno = 0;
    while ((status = load(bar, STATUS, 4)) == BUSY) {
        if (now_ns() > deadline)
            fail("DMA command %u did not end within %d s", command, SECONDS);
        usleep(100);
    }
    return status;
}

static void must(const struct arena *a, uint32_t command, uint64_t source, uint64_t destination, uint64_t length, uint32_t status)
{
    uint32_t got = engine(&a->bar, command, source, destination, length);
    errno = 0;
    if (got != status)
        fail("DMA command %u of %" PRIu64 " bytes from 0x%" PRIx64 " to 0x%" PRIx64 " ended with 0x%" PRIx32 ", not 0x%" PRIx32,
             command, length, source, destination, got, status);
}

static void compare(const struct arena *a, uint32_t command)
{
    errno = 0;
    for (uint64_t i = 0; i < SIZE; i++)
        if (a->memory[i] != a->expected[i])
            fail("after DMA command %u byte %" PRIu64 " is 0x%02x, not 0x%02x", command, i, a->memory[i], a->expected[i]);
}

/* New bytes in the source half, guards in the other. */
static void renew(struct arena *a)
{
    static uint32_t state = 0x2545f491u;
    for (uint64_t i = 0; i < SIZE; i++) {
        state = state * 1664525u + 1013904223u;
        a->expected[i] = i < SIZE / 2 ? state >> 24 : GUARD;
    }
    memcpy(a->memory, a->expected, SIZE);
}

/* One round: every command moves `length` bytes, `at` bytes into its pages. */
static void round_trip(struct arena *a, uint64_t at, uint64_t length)
{
    uint64_t page = at / PAGE, from = a->address[page] + at % PAGE, to = a->address[HALF + page] + at % PAGE;
    uint8_t *target = a->expected + SIZE / 2 + at;

    renew(a);
    must(a, COPY, from, to, length, DONE);
    memcpy(target, a->expected + at, length);
    compare(a, COPY);
    store(&a->bar, SCRATCH, 4, FILLED);
    must(a, FILL, 0, to, length, DONE);
    memset(target, FILLED, length);
    compare(a, FILL);
    must(a, TO_BUFFER, from, 7, length, DONE);
    compare(a, TO_BUFFER);
    must(a, FROM_BUFFER, 7, to, length, DONE);
    memcpy(target, a->expected + at, length);
    compare(a, FROM_BUFFER);
    a->moved += 4 * length;
}

/* How many bytes from the first page of each half on lie one after another for the device. */
static uint64_t contiguous(const struct arena *a)
{
    unsigned page = 1;
    while (page < HALF && a->address[page] == a->address[0] + page * PAGE &&
           a->address[HALF + page] == a->address[HALF] + page * PAGE)
        page++;
    return page * PAGE;
}

static void refusals(struct arena *a, uint64_t nowhere)
{
    renew(a);
    must(a, COPY, a->address[0], nowhere, 64, FAILED | EFAULT);
    must(a, TO_BUFFER, nowhere, 0, 64, FAILED | EFAULT);
    must(a, NO_COMMAND, a->address[0], a->address[HALF], 64, FAILED | EINVAL);
    set_master(&a->config, false);
    must(a, COPY, a->address[0], a->address[HALF], 64, FAILED | EPERM);
    set_master(&a->config, true);
    compare(a, COPY);
}

static void check(struct arena *a, uint64_t nowhere, const char *what)
{
    uint64_t whole = contiguous(a);
    double start = now_ns();

    set_master(&a->config, true);
    for (uint64_t page = 0; page < HALF; page += 5) {
        round_trip(a, page * PAGE, PAGE);
        round_trip(a, page * PAGE + 3, 1);
        round_trip(a, page * PAGE + 61, 2051);
    }
    round_trip(a, 5, whole - 64);
    refusals(a, nowhere);
    printf("DMA verified %" PRIu64 " bytes by %s, pieces of up to %" PRIu64 ", in %.0f us\n", a->moved, what, whole - 64,
           (now_ns() - start) / 1e3);
}

static struct arena *arena_of(void)
{
    static struct arena a;
    a.memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
    if (a.memory == MAP_FAILED)
        fail("locking memory");
    return &a;
}

static uint64_t physical(const uint8_t *page)
{
    uint64_t entry; /* Linux, Documentation/admin-guide/mm/pagemap.rst */
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0 || pread(pagemap, &entry, 8, (uintptr_t)page / PAGE * 8) != 8 || !(entry >> 63))
        fail("/proc/self/pagemap");
    close(pagemap);
    return (entry & ((1ull << 55) - 1)) * PAGE;
}

void testdev_dma(int argc, char **argv)
{
    struct arena *a = arena_of();
    (void)argc;
    a->bar = open_bar(argv[1], 0);
    a->config = (struct window){.fd = sysfs_open(argv[1], "config", O_RDWR), .size = 256};
    for (unsigned page = 0; page < PAGES; page++)
        a->address[page] = physical(a->memory + page * PAGE);
    check(a, 1ull << 46, "physical address");
}

void testdev_vfio(int argc, char **argv)
{
    int container, device = vfio_device(argv[1], &container);
    struct arena *a = arena_of();
    struct vfio_iommu_type1_dma_map map = {.argsz = sizeof map, .iova = IOVA, .size = SIZE};
    struct vfio_iommu_type1_dma_unmap unmap = {.argsz = sizeof unmap, .iova = IOVA, .size = SIZE};
    (void)argc;
    map.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
    map.vaddr = (uintptr_t)a->memory;
    if (ioctl(container, VFIO_IOMMU_MAP_DMA, &map))
        fail("VFIO_IOMMU_MAP_DMA");
    a->bar = vfio_window(device, VFIO_PCI_BAR0_REGION_INDEX);
    a->config = vfio_window(device, VFIO_PCI_CONFIG_REGION_INDEX);
    for (unsigned page = 0; page < PAGES; page++)
        a->address[page] = IOVA + page * PAGE;
    check(a, IOVA + SIZE, "IOVA");
    must(a, COPY, physical(a->memory), IOVA, 64, FAILED | EFAULT); /* what only the host knows is nothing here */
    if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap))
        fail("VFIO_IOMMU_UNMAP_DMA");
    must(a, COPY, IOVA, IOVA + SIZE / 2, 64, FAILED | EFAULT);
    compare(a, COPY);
}

void testdev_copy(int argc, char **argv)
{
    struct window bar = open_bar(argv[1], 0);
    struct window config = {.fd = sysfs_open(argv[1], "config", O_RDWR), .size = 256};
    (void)argc;
    set_master(&config, true);
    printf("0x%" PRIx32 "\n", engine(&bar, COPY, number(argv[2]), number(argv[3]), number(argv[4])));
}

/* A register read, and how long the slowest of them took. */
static double slowest;

static uint64_t timed_load(const struct window *window, uint64_t offset, unsigned width)
{
    double before = now_ns(), taken;
    uint64_t value = load(window, offset, width);

    taken = now_ns() - before;
    if (taken > slowest)
        slowest = taken;
    return value;
}

static void must_read(const struct window *window, uint64_t offset, unsigned width, uint64_t value, const char *what)
{
    uint64_t got = timed_load(window, offset, width);
    errno = 0;
    if (got != value)
        fail("%s is 0x%" PRIx64 ", not 0x%" PRIx64, what, got, value);
}

/* Uses the device, every value checked, until a file is there: nothing may be lost or doubled meanwhile. */
void testdev_loop(int argc, char **argv)
{
    struct arena *a = arena_of();
    struct window memory = open_bar(argv[1], 2);
    uint64_t rounds = 0, rung, copies = 0;
    (void)argc;

    a->bar = open_bar(argv[1], 0);
    a->config = (struct window){.fd = sysfs_open(argv[1], "config", O_RDWR), .size = 256};
    for (unsigned page = 0; page < PAGES; page++)
        a->address[page] = physical(a->memory + page * PAGE);
    set_master(&a->config, true);
    rung = load(&a->bar, RUNG, 4);
    for (; access(argv[2], F_OK); rounds++) {
        uint64_t word = rounds * 0x9e3779b97f4a7c15ull, at = MEMORY + rounds % MEMORY_WORDS * 8;
        store(&a->bar, SCRATCH, 4, (uint32_t)word);
        must_read(&a->bar, SCRATCH, 4, (uint32_t)word, "scratch");
        store(&a->bar, DOORBELL, 4, 1);
        must_read(&a->bar, RUNG, 4, (uint32_t)++rung, "the doorbell's counter");
        store(&memory, at, 8, word);
        must_read(&memory, at, 8, word, "BAR2");
        if (rounds % EVERY == 0) {
            renew(a);
            must(a, COPY, a->address[0], a->address[HALF], PAGE, DONE);
            memcpy(a->expected + SIZE / 2, a->expected, PAGE);
            compare(a, COPY);
            copies++;
        }
    }
    printf("%" PRIu64 " rounds, %" PRIu64 " copies, slowest read %.0f us\n", rounds, copies, slowest / 1e3);
}
