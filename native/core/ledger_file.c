/* Making, checking and mapping a ledger's file. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ledger_layout.h"

enum {
    OWN_MESSAGES = 4 << 20,   /* bytes of DMA messages under way, and their replies, besides one of max_transfer */
    OVERHEAD = 65536,         /* headers, and the fixed parts of a few messages */
    LEAST_TRANSFER = 1 << 20, /* what is agreed with a client that names no max_data_xfer_size */
};

static const char MAGIC[8] = "vfu-ldgr";

static size_t ring_size(uint32_t max_transfer)
{
    uint64_t message = max_transfer < LEAST_TRANSFER ? LEAST_TRANSFER : max_transfer;
    uint64_t most = 3 * message + OWN_MESSAGES + VFU_WAITING_LIMIT + VFU_SEND_LIMIT + OVERHEAD, size = VFU_LEDGER_HEAD;

    while (size < 2 * most) /* used to half its size */
        size *= 2;
    return (size_t)size;
}

static int make(size_t ring)
{
    vfu_ledger_head head = {.version = VFU_LEDGER_VERSION, .bank_size = sizeof(vfu_ledger_bank), .ring = ring};
    int fd = memfd_create("vfuserver-ledger", MFD_CLOEXEC | MFD_ALLOW_SEALING), error;

    if (fd < 0)
        return -errno;
    memcpy(head.magic, MAGIC, sizeof(MAGIC));
    if (ftruncate(fd, (off_t)(VFU_LEDGER_HEAD + 2 * ring)) == 0 && pwrite(fd, &head, sizeof(head), 0) == sizeof(head) &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return fd;
    error = errno;
    close(fd);
    return -error;
}

/* It was made by this layout, and cannot become shorter under our mapping. */
static bool fits(int fd, size_t ring)
{
    vfu_ledger_head head;
    struct stat status;

    return fstat(fd, &status) == 0 && status.st_size == (off_t)(VFU_LEDGER_HEAD + 2 * ring) &&
           fcntl(fd, F_GET_SEALS) >= 0 && fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK &&
           pread(fd, &head, sizeof(head), 0) == sizeof(head) && !memcmp(head.magic, MAGIC, sizeof(MAGIC)) &&
           head.version == VFU_LEDGER_VERSION && head.bank_size == sizeof(vfu_ledger_bank) && head.ring == ring;
}

static uint8_t *map_twice(int fd, off_t offset, size_t size)
{
    uint8_t *at = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED)
        return NULL;
    for (int i = 0; i < 2; i++)
        if (mmap(at + i * size, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset) == MAP_FAILED) {
            munmap(at, 2 * size);
            return NULL;
        }
    return at;
}

int vfu_ledger_open(vfu_ledger *l, uint32_t max_transfer, int fd)
{
    *l = (vfu_ledger){.fd = -1, .ring = ring_size(max_transfer)};
    if (fd >= 0 && !fits(fd, l->ring))
        return -EINVAL;
    l->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : make(l->ring);
    if (l->fd < 0)
        return fd >= 0 ? -errno : l->fd;
    l->head = mmap(NULL, VFU_LEDGER_HEAD, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, 0);
    if (l->head == MAP_FAILED)
        l->head = NULL;
    l->rx = l->head ? map_twice(l->fd, VFU_LEDGER_HEAD, l->ring) : NULL;
    l->tx = l->rx ? map_twice(l->fd, (off_t)(VFU_LEDGER_HEAD + l->ring), l->ring) : NULL;
    if (!l->tx) {
        vfu_ledger_close(l);
        return -ENOMEM;
    }
    return 0;
}

void vfu_ledger_close(vfu_ledger *l)
{
    if (l->head)
        munmap(l->head, VFU_LEDGER_HEAD);
    if (l->rx)
        munmap(l->rx, 2 * l->ring);
    if (l->tx)
        munmap(l->tx, 2 * l->ring);
    if (l->fd >= 0)
        close(l->fd);
    *l = (vfu_ledger){.fd = -1};
}
