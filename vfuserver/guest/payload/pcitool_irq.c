/*
 * pcitool's interrupts: every vector of a testdev by itself, through vfio-pci, and masked as a driver masks it.
 *
 * Each line says what was done with a vector and then how often each vector has come since the line before. After a
 * masked vector its neighbour is raised twice, and waited for each time: what the mask let through has come by then.
 */

#include "pcitool.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { TESTDEV_RAISE = 0x18, SECONDS = 10 };

/* Vectors armed on one index, and where their mask bits are. */
struct vectors {
    int events[VECTORS_MOST];
    unsigned count;
    struct window registers, masks;
    uint64_t mask_offset;
    unsigned stride; /* from one vector's mask to the next; 0: bits of one register */
};

static uint64_t capability(const struct window *config, unsigned id)
{
    unsigned at = load(config, PCI_CAPABILITY_LIST, 1);
    while (at && load(config, at + PCI_CAP_LIST_ID, 1) != id)
        at = load(config, at + PCI_CAP_LIST_NEXT, 1);
    errno = 0;
    if (!at)
        fail("there is no capability 0x%02x", id);
    return at;
}

static void find_masks(struct vectors *vectors, int device, bool msix)
{
    struct window config = vfio_window(device, VFIO_PCI_CONFIG_REGION_INDEX);
    uint64_t at = capability(&config, msix ? PCI_CAP_ID_MSIX : PCI_CAP_ID_MSI);
    if (msix) {
        uint64_t table = load(&config, at + PCI_MSIX_TABLE, 4);
        vectors->masks = vfio_window(device, table & PCI_MSIX_TABLE_BIR);
        vectors->mask_offset = (table & PCI_MSIX_TABLE_OFFSET) + PCI_MSIX_ENTRY_VECTOR_CTRL;
        vectors->stride = PCI_MSIX_ENTRY_SIZE;
    } else {
        bool wide = load(&config, at + PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_64BIT;
        vectors->masks = config;
        vectors->mask_offset = at + (wide ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32);
    }
}

static void set_mask(const struct vectors *vectors, unsigned vector, bool masked)
{
    uint64_t at = vectors->mask_offset + vector * vectors->stride;
    uint64_t bit = vectors->stride ? PCI_MSIX_ENTRY_CTRL_MASKBIT : UINT64_C(1) << vector;
    uint64_t others = load(&vectors->masks, at, 4) & ~bit;
    store(&vectors->masks, at, 4, others | (masked ? bit : 0));
}

static void raise_vector(const struct vectors *vectors, unsigned vector)
{
    store(&vectors->registers, TESTDEV_RAISE, 4, vector);
}

/* How often a vector has come since it was last asked. */
static unsigned times_of(struct vectors *vectors, unsigned vector)
{
    uint64_t times = 0;
    if (read(vectors->events[vector], &times, sizeof times) < 0 && errno != EAGAIN)
        fail("eventfd %u", vector);
    return times;
}

static unsigned wait_for(struct vectors *vectors, unsigned vector)
{
    struct pollfd waiting = {.fd = vectors->events[vector], .events = POLLIN};
    errno = 0;
    if (poll(&waiting, 1, SECONDS * 1000) != 1)
        fail("vector %u did not come within %d s", vector, SECONDS);
    return times_of(vectors, vector);
}

/* Prints how often each vector has come; `awaited` came `times` already. */
static void report(struct vectors *vectors, const char *what, unsigned vector, unsigned awaited, unsigned times)
{
    printf("%s %u:", what, vector);
    for (unsigned each = 0; each < vectors->count; each++)
        printf(" %u", times_of(vectors, each) + (each == awaited ? times : 0));
    printf("\n");
}

static void check_own(struct vectors *vectors, unsigned vector)
{
    raise_vector(vectors, vector);
    report(vectors, "raised", vector, vector, wait_for(vectors, vector));
}

static void check_mask(struct vectors *vectors, unsigned vector)
{
    unsigned witness = (vector + 1) % vectors->count, times = 0;
    set_mask(vectors, vector, true);
    raise_vector(vectors, vector);
    for (unsigned round = 0; round < 2; round++) {
        raise_vector(vectors, witness);
        times += wait_for(vectors, witness);
    }
    report(vectors, "masked", vector, witness, times);
    set_mask(vectors, vector, false);
    report(vectors, "unmasked", vector, vector, wait_for(vectors, vector));
}

void vfio_irq(int argc, char **argv)
{
    (void)argc;
    struct vectors vectors = {.count = number(argv[3])};
    bool msix = !strcmp(argv[2], "msix");
    errno = 0;
    if (!msix && strcmp(argv[2], "msi"))
        fail("interrupts are msi or msix, not %s", argv[2]);
    if (vectors.count < 2 || vectors.count > VECTORS_MOST)
        fail("vectors must be 2 to %d, not %u", VECTORS_MOST, vectors.count);
    int container, device = vfio_device(argv[1], &container);
    struct window config = vfio_window(device, VFIO_PCI_CONFIG_REGION_INDEX);
    set_master(&config, true);
    vectors.registers = vfio_window(device, VFIO_PCI_BAR0_REGION_INDEX);
    vfio_arm(device, msix ? VFIO_PCI_MSIX_IRQ_INDEX : VFIO_PCI_MSI_IRQ_INDEX, vectors.events, vectors.count);
    find_masks(&vectors, device, msix);

    for (unsigned vector = 0; vector < vectors.count; vector++)
        check_own(&vectors, vector);
    for (unsigned vector = 0; vector < vectors.count; vector++)
        check_mask(&vectors, vector);
}
