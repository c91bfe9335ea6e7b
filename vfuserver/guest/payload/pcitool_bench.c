/*
 * pcitool's benchmarks: what an access, an interrupt, a copy and a driver's own access take, by the guest's clock.
 *
 * One process for one device serves orders from one FIFO with numbers (ns) in another, so that many devices of one guest
 * can take turns, however long a device takes to open. An order is a line; BAR0 is meant by OFFSET:
 *     read OFFSET COUNT               a load, the median
 *     post OFFSET COUNTER COUNT       a store, the mean until the register COUNTER has grown by COUNT
 *     interrupt OFFSET VALUE COUNT    from the store that raises vector 0 until its eventfd has been read, the median
 *     copy BYTES COUNT                testdev's engine, until its vector 1 has come, the median
 *     line NUMBER COUNT               the value of a GPIO line by the device's driver, the median
 * All but the last want the device bound to vfio-pci. A quarter more is done before any counts.
 */

#include "pcitool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/gpio.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    MOST = 4096, SECONDS = 10, VECTORS = 2,
    SOURCE = 0x20, DESTINATION = 0x28, LENGTH = 0x30, COMMAND = 0x34, STATUS = 0x38, COPY_AND_RAISE = 0x101, DONE = 2,
    HUGE = 2 << 20, HUGE_PAGES = 8, IOVA = 0x1000000, ARENA = HUGE * HUGE_PAGES,
};

struct bench {
    const char *bdf;
    struct window registers; /* .fd is the vfio device, 0: not opened yet */
    int container, events[VECTORS], line;
    uint8_t *arena;
    uint64_t offset, value;
};

/* ---- what is opened when it is first wanted ---- */

static void open_device(struct bench *b)
{
    if (b->registers.fd)
        return;
    int device = vfio_device(b->bdf, &b->container);
    struct window config = vfio_window(device, VFIO_PCI_CONFIG_REGION_INDEX);
    struct vfio_irq_info info = {.argsz = sizeof info, .index = VFIO_PCI_MSI_IRQ_INDEX};
    set_master(&config, true);
    b->registers = vfio_window(device, VFIO_PCI_BAR0_REGION_INDEX);
    if (ioctl(device, VFIO_DEVICE_GET_IRQ_INFO, &info))
        fail("VFIO_DEVICE_GET_IRQ_INFO");
    vfio_arm(device, VFIO_PCI_MSI_IRQ_INDEX, b->events, info.count < VECTORS ? info.count : VECTORS);
}

static void open_arena(struct bench *b)
{
    struct vfio_iommu_type1_dma_map map = {.argsz = sizeof map, .iova = IOVA, .size = ARENA};
    if (b->arena)
        return;
    b->arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    if (b->arena == MAP_FAILED)
        fail("%d huge pages (see /proc/sys/vm/nr_hugepages)", HUGE_PAGES);
    map.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
    map.vaddr = (uintptr_t)b->arena;
    if (ioctl(b->container, VFIO_IOMMU_MAP_DMA, &map))
        fail("VFIO_IOMMU_MAP_DMA");
}

static void open_line(struct bench *b)
{
    char path[300];
    struct gpio_v2_line_request request = {.offsets = {b->offset}, .num_lines = 1, .consumer = "pcitool"};
    if (b->line)
        return;
    DIR *folder = opendir(sysfs_path(b->bdf, ""));
    struct dirent *entry = NULL;
    while (folder && (entry = readdir(folder)) && strncmp(entry->d_name, "gpiochip", 8))
        ;
    errno = 0;
    if (!entry)
        fail("%s has no GPIO chip (is its driver bound?)", b->bdf);
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    closedir(folder);
    int chip = open(path, O_RDWR | O_CLOEXEC);
    request.config.flags = GPIO_V2_LINE_FLAG_INPUT;
    if (chip < 0 || ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &request))
        fail("line %" PRIu64 " of %s", b->offset, path);
    close(chip);
    b->line = request.fd;
}

/* ---- one of each ---- */

static void read_once(struct bench *b) { load(&b->registers, b->offset, 4); }

static void wait_for(struct bench *b, unsigned vector)
{
    struct pollfd waiting = {.fd = b->events[vector], .events = POLLIN};
    uint64_t times;
    errno = 0;
    if (poll(&waiting, 1, SECONDS * 1000) != 1 || read(waiting.fd, &times, sizeof times) != sizeof times)
        fail("vector %u of %s did not come within %d s", vector, b->bdf, SECONDS);
}

static void interrupt_once(struct bench *b)
{
    store(&b->registers, b->offset, 4, b->value);
    wait_for(b, 0);
}

static void copy_once(struct bench *b)
{
    store(&b->registers, SOURCE, 8, IOVA);
    store(&b->registers, DESTINATION, 8, IOVA + ARENA / 2);
    store(&b->registers, LENGTH, 4, b->value);
    store(&b->registers, COMMAND, 4, COPY_AND_RAISE);
    wait_for(b, 1);
}

static void line_once(struct bench *b)
{
    struct gpio_v2_line_values values = {.mask = 1};
    if (ioctl(b->line, GPIO_V2_LINE_GET_VALUES_IOCTL, &values))
        fail("GPIO_V2_LINE_GET_VALUES_IOCTL of %s", b->bdf);
}

/* ---- orders ---- */

static int ascending(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double median(struct bench *b, void (*once)(struct bench *), uint64_t count)
{
    static double times[MOST];
    errno = 0;
    if (!count || count > MOST)
        fail("a count must be 1 to %d, not %" PRIu64, MOST, count);
    for (uint64_t i = 0; i <= count / 4; i++)
        once(b);
    for (uint64_t i = 0; i < count; i++) {
        double start = now_ns();
        once(b);
        times[i] = now_ns() - start;
    }
    qsort(times, count, sizeof *times, ascending);
    return times[count / 2];
}

static double do_read(struct bench *b, const uint64_t *words)
{
    open_device(b);
    b->offset = words[0];
    return median(b, read_once, words[1]);
}

static double do_post(struct bench *b, const uint64_t *words)
{
    open_device(b);
    uint32_t end = load(&b->registers, words[1], 4) + words[2];
    double start = now_ns();
    for (uint64_t i = 0; i < words[2]; i++)
        store(&b->registers, words[0], 4, i);
    uint32_t counted = load(&b->registers, words[1], 4); /* which a server answers after what was posted */
    double taken = now_ns() - start;
    errno = 0;
    if (counted != end)
        fail("%s has counted %" PRIu32 " stores, not %" PRIu32, b->bdf, counted, end);
    return taken / words[2];
}

static double do_interrupt(struct bench *b, const uint64_t *words)
{
    open_device(b);
    b->offset = words[0];
    b->value = words[1];
    return median(b, interrupt_once, words[2]);
}

static double do_copy(struct bench *b, const uint64_t *words)
{
    open_device(b);
    open_arena(b);
    errno = 0;
    if (!words[0] || words[0] > ARENA / 2)
        fail("a copy must have 1 to %d bytes, not %" PRIu64, ARENA / 2, words[0]);
    memset(b->arena, b->arena[0] + 1, words[0]); /* which the other half has not */
    b->value = words[0];
    double taken = median(b, copy_once, words[1]);
    errno = 0;
    if (load(&b->registers, STATUS, 4) != DONE || memcmp(b->arena, b->arena + ARENA / 2, words[0]))
        fail("%s has not copied %" PRIu64 " bytes", b->bdf, words[0]);
    return taken;
}

static double do_line(struct bench *b, const uint64_t *words)
{
    b->offset = words[0];
    open_line(b);
    return median(b, line_once, words[1]);
}

static const struct order {
    const char *name;
    double (*run)(struct bench *, const uint64_t *words);
    int words;
} orders[] = {
    {"read", do_read, 2}, {"post", do_post, 3}, {"interrupt", do_interrupt, 3}, {"copy", do_copy, 2}, {"line", do_line, 2},
};

static double done(struct bench *b, const char *line)
{
    char name[16];
    uint64_t words[3];
    int found = sscanf(line, "%15s %" SCNi64 " %" SCNi64 " %" SCNi64, name, (int64_t *)words, (int64_t *)words + 1, (int64_t *)words + 2);
    for (const struct order *order = orders; order < orders + sizeof orders / sizeof *orders; order++)
        if (found > 0 && !strcmp(order->name, name) && order->words == found - 1)
            return order->run(b, words);
    errno = 0;
    fail("there is no order %s", line);
}

void bench(int argc, char **argv)
{
    struct bench b = {.bdf = argv[1]};
    char line[128];
    (void)argc;
    /* Both ends are held open here, so that neither ends when whoever orders goes. */
    int in = open(argv[2], O_RDWR | O_CLOEXEC), out = open(argv[3], O_RDWR | O_CLOEXEC);
    FILE *lines = in < 0 ? NULL : fdopen(in, "r");
    if (!lines || out < 0)
        fail("opening %s and %s", argv[2], argv[3]);
    while (fgets(line, sizeof line, lines))
        dprintf(out, "%.0f\n", done(&b, line));
}
