/*
 * pcitool - PCI devices from user space in a test guest: registers, timing, DMA, vfio-pci.
 *
 * A static program for an initramfs. Registers are reached through /sys/bus/pci/devices/BDF/resourceN (memory BARs by
 * mmap, I/O BARs by pread/pwrite); DMA is in pcitool_dma.c and pcitool_testdev.c, vfio-pci in pcitool_vfio.c, interrupts in pcitool_irq.c,
 * what all of it takes in pcitool_bench.c. One sub-command per call (the table at the end); every
 * failure is one line on stderr and exit code 1.
 */

#include "pcitool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SYSFS "/sys/bus/pci/devices/"

void fail(const char *format, ...)
{
    int error = errno;
    va_list words;
    va_start(words, format);
    fprintf(stderr, "pcitool: ");
    vfprintf(stderr, format, words);
    va_end(words);
    fprintf(stderr, error ? ": %s\n" : "\n", strerror(error));
    exit(1);
}

uint64_t number(const char *text)
{
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 0);
    if (errno || end == text || *end)
        fail("%s is no number", text);
    return value;
}

double now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

/* ---- sysfs ---- */

const char *sysfs_path(const char *bdf, const char *leaf)
{
    static char path[256];
    const char *domain = strlen(bdf) < 12 ? "0000:" : "";
    snprintf(path, sizeof path, SYSFS "%s%s/%s", domain, bdf, leaf);
    return path;
}

int sysfs_open(const char *bdf, const char *leaf, int flags)
{
    int fd = open(sysfs_path(bdf, leaf), flags | O_CLOEXEC);
    if (fd < 0)
        fail("%s", sysfs_path(bdf, leaf));
    return fd;
}

static void write_text(const char *path, const char *text, int forgiven)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || (write(fd, text, strlen(text)) < 0 && errno != forgiven))
        fail("%s", path);
    close(fd);
}

/* ---- windows onto registers ---- */

static void check_access(const struct window *window, uint64_t offset, unsigned width)
{
    errno = 0;
    if (width != 1 && width != 2 && width != 4 && width != 8)
        fail("a width must be 1, 2, 4 or 8, not %u", width);
    if (offset + width > window->size || offset % width)
        fail("0x%" PRIx64 " is not aligned, or beyond a window of 0x%" PRIx64 " bytes", offset, window->size);
}

uint64_t load(const struct window *window, uint64_t offset, unsigned width)
{
    uint64_t value = 0;
    if (!window->map) {
        if (pread(window->fd, &value, width, window->base + offset) != (ssize_t)width)
            fail("reading %u bytes at 0x%" PRIx64, width, offset);
        return value;
    }
    volatile void *at = window->map + offset;
    switch (width) {
    case 1: return *(volatile uint8_t *)at;
    case 2: return *(volatile uint16_t *)at;
    case 4: return *(volatile uint32_t *)at;
    default: return *(volatile uint64_t *)at;
    }
}

void store(const struct window *window, uint64_t offset, unsigned width, uint64_t value)
{
    if (!window->map) {
        if (pwrite(window->fd, &value, width, window->base + offset) != (ssize_t)width)
            fail("writing %u bytes at 0x%" PRIx64, width, offset);
        return;
    }
    volatile void *at = window->map + offset;
    switch (width) {
    case 1: *(volatile uint8_t *)at = value; return;
    case 2: *(volatile uint16_t *)at = value; return;
    case 4: *(volatile uint32_t *)at = value; return;
    default: *(volatile uint64_t *)at = value;
    }
}

/* The BAR's window. A device without a driver is enabled first (EBUSY says that a driver has done it). */
struct window open_bar(const char *bdf, unsigned bar)
{
    enum { IO = 0x100 }; /* IORESOURCE_IO, linux/ioport.h */
    uint64_t start = 0, end = 0, flags = 0;
    FILE *table = fopen(sysfs_path(bdf, "resource"), "r");
    if (!table)
        fail("%s", sysfs_path(bdf, "resource"));
    for (unsigned line = 0; line <= bar; line++)
        if (fscanf(table, "%" SCNx64 " %" SCNx64 " %" SCNx64, &start, &end, &flags) != 3)
            fail("%s has no BAR %u", bdf, bar);
    fclose(table);
    errno = 0;
    if (!flags)
        fail("%s has no BAR %u", bdf, bar);
    write_text(sysfs_path(bdf, "enable"), "1", EBUSY);

    char leaf[32];
    snprintf(leaf, sizeof leaf, "resource%u", bar);
    struct window window = {.fd = sysfs_open(bdf, leaf, O_RDWR | O_SYNC), .size = end - start + 1};
    if (!(flags & IO)) { /* a small BAR may start inside its page */
        uint64_t inside = start % PAGE;
        void *map = mmap(NULL, inside + window.size, PROT_READ | PROT_WRITE, MAP_SHARED, window.fd, 0);
        if (map == MAP_FAILED)
            fail("mmap of %s", sysfs_path(bdf, leaf));
        window.map = (volatile uint8_t *)map + inside;
    }
    return window;
}

void set_master(const struct window *config, bool on)
{
    enum { COMMAND = 4, MEMORY = 2, MASTER = 4 }; /* PCI Local Bus 3.0, 6.2.2 */
    uint64_t command = load(config, COMMAND, 2) & ~(uint64_t)MASTER;
    store(config, COMMAND, 2, command | (on ? MASTER | MEMORY : 0));
}

/* ---- sub-commands ---- */

struct place {
    struct window window;
    uint64_t offset;
    unsigned width;
};

static struct place place_of(char **argv) /* BDF BAR OFFSET WIDTH; BAR may be `config` */
{
    struct place place = {.offset = number(argv[3]), .width = number(argv[4])};
    if (strcmp(argv[2], "config"))
        place.window = open_bar(argv[1], number(argv[2]));
    else
        place.window = (struct window){.fd = sysfs_open(argv[1], "config", O_RDWR), .size = PAGE};
    check_access(&place.window, place.offset, place.width);
    return place;
}

static void do_read(int argc, char **argv)
{
    (void)argc;
    struct place at = place_of(argv);
    printf("0x%0*" PRIx64 "\n", (int)at.width * 2, load(&at.window, at.offset, at.width));
}

static void do_write(int argc, char **argv)
{
    (void)argc;
    struct place at = place_of(argv);
    store(&at.window, at.offset, at.width, number(argv[5]));
}

static void do_fill(int argc, char **argv)
{
    (void)argc;
    struct place at = place_of(argv);
    uint64_t value = number(argv[5]), count = number(argv[6]);
    double start = now_ns();
    for (uint64_t i = 0; i < count; i++)
        store(&at.window, at.offset, at.width, value);
    printf("%.1f ns per store\n", (now_ns() - start) / count);
}

static void do_latency(int argc, char **argv)
{
    (void)argc;
    struct place at = place_of(argv);
    uint64_t count = number(argv[5]);
    double start = now_ns();
    for (uint64_t i = 0; i < count; i++)
        load(&at.window, at.offset, at.width);
    printf("%.1f ns per read\n", (now_ns() - start) / count);
}

static void do_master(int argc, char **argv)
{
    (void)argc;
    struct window config = {.fd = sysfs_open(argv[1], "config", O_RDWR), .size = 256};
    errno = 0;
    if (strcmp(argv[2], "on") && strcmp(argv[2], "off"))
        fail("master takes on or off, not %s", argv[2]);
    set_master(&config, !strcmp(argv[2], "on"));
}

static void do_bind(int argc, char **argv)
{
    (void)argc;
    char name[32], driver[256];
    snprintf(name, sizeof name, "%s%s", strlen(argv[1]) < 12 ? "0000:" : "", argv[1]);
    write_text(sysfs_path(argv[1], "driver_override"), argv[2], 0);
    if (!access(sysfs_path(argv[1], "driver"), F_OK))
        write_text(sysfs_path(argv[1], "driver/unbind"), name, 0);
    write_text("/sys/bus/pci/drivers_probe", name, 0);
    ssize_t length = readlink(sysfs_path(argv[1], "driver"), driver, sizeof driver - 1);
    driver[length < 0 ? 0 : length] = 0;
    const char *bound = strrchr(driver, '/');
    errno = 0;
    if (!bound || strcmp(bound + 1, argv[2]))
        fail("%s was not bound to %s (is the driver loaded?)", name, argv[2]);
}

static const struct command {
    const char *name;
    void (*run)(int, char **);
    int least, most; /* words after the name */
    const char *words;
} commands[] = {
    {"read", do_read, 4, 4, "BDF BAR|config OFFSET WIDTH"},
    {"write", do_write, 5, 5, "BDF BAR|config OFFSET WIDTH VALUE"},
    {"fill", do_fill, 6, 6, "BDF BAR OFFSET WIDTH VALUE COUNT"},
    {"latency", do_latency, 5, 5, "BDF BAR OFFSET WIDTH COUNT"},
    {"master", do_master, 2, 2, "BDF on|off"},
    {"bind", do_bind, 2, 2, "BDF DRIVER"},
    {"phys-dma", phys_dma, 1, 2, "BDF [BYTES]   (edu)"},
    {"vfio", vfio_dma, 1, 2, "BDF [BYTES]   (edu bound to vfio-pci)"},
    {"testdev-dma", testdev_dma, 1, 1, "BDF   (testdev)"},
    {"testdev-vfio", testdev_vfio, 1, 1, "BDF   (testdev bound to vfio-pci)"},
    {"testdev-copy", testdev_copy, 4, 4, "BDF SOURCE DESTINATION BYTES   (testdev, bus addresses; prints its status)"},
    {"testdev-loop", testdev_loop, 2, 2, "BDF FILE   (testdev, until FILE is there; prints what it has done)"},
    {"vfio-irq", vfio_irq, 3, 3, "BDF msi|msix COUNT   (testdev bound to vfio-pci)"},
    {"bench", bench, 3, 3, "BDF FIFO FIFO   (orders in one, as pcitool_bench.c lists them, ns in the other)"},
};

int main(int argc, char **argv)
{
    const struct command *end = commands + sizeof commands / sizeof *commands;
    for (const struct command *command = commands; argc > 1 && command < end; command++)
        if (!strcmp(argv[1], command->name) && argc - 2 >= command->least && argc - 2 <= command->most) {
            command->run(argc - 1, argv + 1);
            return 0;
        }
    for (const struct command *command = commands; command < end; command++)
        fprintf(stderr, "pcitool %s %s\n", command->name, command->words);
    return 2;
}
