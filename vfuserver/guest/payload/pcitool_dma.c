/*
 * pcitool's DMA: round trips through the buffer of QEMU's edu device (docs/specs/edu.rst in QEMU), once with physical
 * addresses and no driver, once through vfio-pci with an IOMMU and MSI.
 */

#include "pcitool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- the edu device's DMA ---- */

enum {
    EDU_IRQ_STATUS = 0x24, EDU_IRQ_ACK = 0x64,
    EDU_DMA_SOURCE = 0x80, EDU_DMA_TARGET = 0x88, EDU_DMA_COUNT = 0x90, EDU_DMA_COMMAND = 0x98,
    EDU_START = 1, EDU_TO_RAM = 2, EDU_INTERRUPT = 4,
    EDU_BUFFER = 0x40000, EDU_BUFFER_SIZE = 4096,
    EDU_ADDRESSES = 1 << 28,
    SECONDS = 10,
};

static void edu_start(const struct window *bar, uint64_t source, uint64_t target, uint64_t count, uint64_t command)
{
    store(bar, EDU_DMA_SOURCE, 8, source);
    store(bar, EDU_DMA_TARGET, 8, target);
    store(bar, EDU_DMA_COUNT, 8, count);
    store(bar, EDU_DMA_COMMAND, 8, command | EDU_START);
}

static void edu_wait(const struct window *bar)
{
    double deadline = now_ns() + SECONDS * 1e9;
    while (load(bar, EDU_DMA_COMMAND, 8) & EDU_START) {
        errno = 0;
        if (now_ns() > deadline)
            fail("the DMA did not end within %d s", SECONDS);
        usleep(100);
    }
}

static void fill_pattern(uint8_t *bytes, uint64_t count)
{
    uint32_t state = 0x2545f491u ^ (uint32_t)getpid();
    for (uint64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        bytes[i] = state >> 24;
    }
}

static void verify(const uint8_t *got, const uint8_t *expected, uint64_t count)
{
    errno = 0;
    for (uint64_t i = 0; i < count; i++)
        if (got[i] != expected[i])
            fail("DMA differs at byte %" PRIu64 ": 0x%02x came back, 0x%02x was sent", i, got[i], expected[i]);
}

static uint64_t edu_count(int argc, char **argv)
{
    uint64_t count = argc > 2 ? number(argv[2]) : EDU_BUFFER_SIZE;
    errno = 0;
    if (!count || count > EDU_BUFFER_SIZE)
        fail("edu's buffer holds 1 to %d bytes, not %" PRIu64, EDU_BUFFER_SIZE, count);
    return count;
}

/* A locked page that edu can address, and its physical address: memory is taken until one is low enough. */
static uint8_t *low_page(uint64_t *physical)
{
    enum { BLOCK = 4 << 20 };
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0)
        fail("/proc/self/pagemap");
    for (uint64_t spare; (spare = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * PAGE) > 8ull * BLOCK;) {
        uint8_t *block = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
        if (block == MAP_FAILED)
            fail("locking memory");
        for (uint8_t *page = block; page < block + BLOCK; page += PAGE) {
            uint64_t entry; /* Linux, Documentation/admin-guide/mm/pagemap.rst */
            if (pread(pagemap, &entry, 8, (uintptr_t)page / PAGE * 8) != 8)
                fail("/proc/self/pagemap");
            *physical = (entry & ((1ull << 55) - 1)) * PAGE;
            if (entry >> 63 && *physical && *physical + PAGE <= EDU_ADDRESSES)
                return page;
        }
    }
    errno = 0;
    fail("no free page below 0x%x", EDU_ADDRESSES);
}

void phys_dma(int argc, char **argv)
{
    uint64_t count = edu_count(argc, argv), physical;
    uint8_t sent[EDU_BUFFER_SIZE];
    struct window bar = open_bar(argv[1], 0);
    struct window config = {.fd = sysfs_open(argv[1], "config", O_RDWR), .size = 256};
    set_master(&config, true);
    uint8_t *page = low_page(&physical);
    fill_pattern(sent, count);
    memcpy(page, sent, count);
    double start = now_ns();
    edu_start(&bar, physical, EDU_BUFFER, count, 0);
    edu_wait(&bar);
    memset(page, 0, count);
    edu_start(&bar, EDU_BUFFER, physical, count, EDU_TO_RAM);
    edu_wait(&bar);
    double spent = now_ns() - start;
    verify(page, sent, count);
    printf("DMA verified %" PRIu64 " bytes at 0x%" PRIx64 " in %.0f us\n", count, physical, spent / 1e3);
}

/* ---- through vfio-pci ---- */

static uint64_t wait_event(int event, const struct window *bar)
{
    uint64_t times = 0;
    struct pollfd waiting = {.fd = event, .events = POLLIN};
    errno = 0;
    if (poll(&waiting, 1, SECONDS * 1000) != 1 || read(event, &times, sizeof times) != sizeof times)
        fail("no MSI within %d s", SECONDS);
    store(bar, EDU_IRQ_ACK, 4, load(bar, EDU_IRQ_STATUS, 4));
    return times;
}

void vfio_dma(int argc, char **argv)
{
    enum { IOVA = 0x1000000, SIZE = 4 * PAGE };
    uint64_t count = edu_count(argc, argv), interrupts = 0;
    uint8_t sent[EDU_BUFFER_SIZE];
    int container, device = vfio_device(argv[1], &container);
    uint8_t *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct vfio_iommu_type1_dma_map map = {.argsz = sizeof map, .iova = IOVA, .size = SIZE};
    map.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
    map.vaddr = (uintptr_t)memory;
    double start = now_ns();
    if (memory == MAP_FAILED || ioctl(container, VFIO_IOMMU_MAP_DMA, &map))
        fail("VFIO_IOMMU_MAP_DMA");
    double mapped = now_ns() - start;
    struct window bar = vfio_window(device, VFIO_PCI_BAR0_REGION_INDEX);
    struct window config = vfio_window(device, VFIO_PCI_CONFIG_REGION_INDEX);
    set_master(&config, true);
    int event;
    vfio_arm(device, VFIO_PCI_MSI_IRQ_INDEX, &event, 1);

    fill_pattern(sent, count);
    memcpy(memory, sent, count);
    start = now_ns();
    edu_start(&bar, IOVA, EDU_BUFFER, count, EDU_INTERRUPT);
    interrupts += wait_event(event, &bar);
    edu_start(&bar, EDU_BUFFER, IOVA + PAGE, count, EDU_TO_RAM | EDU_INTERRUPT);
    interrupts += wait_event(event, &bar);
    double spent = now_ns() - start;
    verify(memory + PAGE, sent, count);
    printf("DMA verified %" PRIu64 " bytes at IOVA 0x%x in %.0f us\n", count, IOVA, spent / 1e3);
    printf("MSI received %" PRIu64 "\n", interrupts);
    start = now_ns();
    struct vfio_iommu_type1_dma_unmap unmap = {.argsz = sizeof unmap, .iova = IOVA, .size = SIZE};
    if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap))
        fail("VFIO_IOMMU_UNMAP_DMA");
    printf("map %.0f us, unmap %.0f us\n", mapped / 1e3, (now_ns() - start) / 1e3);
}
