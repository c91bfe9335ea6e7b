/*
 * What the parts of pcitool share: errors, sysfs, and one window onto registers.
 */

#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PAGE 4096u

/* One line on stderr, with the text of errno unless that is 0, and exit code 1. */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* The number that `text` is (decimal, 0x, 0), or failure. */
uint64_t number(const char *text);

double now_ns(void);

/* /sys/bus/pci/devices/BDF/LEAF in a static buffer; the domain of BDF may be left out. */
const char *sysfs_path(const char *bdf, const char *leaf);
int sysfs_open(const char *bdf, const char *leaf, int flags);

/* A mapped BAR, an I/O BAR, a configuration space, or a region of a vfio device. */
struct window {
    volatile uint8_t *map; /* NULL: by pread and pwrite */
    int fd;
    uint64_t base; /* of the window in fd */
    uint64_t size;
};

/* The BAR's window. A device without a driver is enabled first. */
struct window open_bar(const char *bdf, unsigned bar);

/* One access of `width` bytes (1, 2, 4, 8). */
uint64_t load(const struct window *window, uint64_t offset, unsigned width);
void store(const struct window *window, uint64_t offset, unsigned width, uint64_t value);

/* COMMAND's bus master bit; switching it on switches memory decoding on as well. */
void set_master(const struct window *config, bool on);

/* The device of `bdf`, bound to vfio-pci, in a type1 container of its own. */
int vfio_device(const char *bdf, int *container);

/* A region of it, mapped if it can be. */
struct window vfio_window(int device, unsigned region);

/* One new eventfd (not blocking) for each of the vectors 0 to count - 1. */
enum { VECTORS_MOST = 64 };
void vfio_arm(int device, unsigned index, int *events, unsigned count);

/* Sub-commands: BDF [BYTES]. */
void phys_dma(int argc, char **argv);
void vfio_dma(int argc, char **argv);

/* BDF; and BDF SOURCE DESTINATION BYTES. */
void testdev_dma(int argc, char **argv);
void testdev_vfio(int argc, char **argv);
void testdev_copy(int argc, char **argv);

/* BDF FILE. */
void testdev_loop(int argc, char **argv);

/* BDF msi|msix COUNT. */
void vfio_irq(int argc, char **argv);

/* BDF FIFO FIFO: orders, and what they took. */
void bench(int argc, char **argv);
