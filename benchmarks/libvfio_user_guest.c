/* The peer of the benchmarks in a guest: testdev's BAR0, as far as they use it, in C on libvfio-user's public API. It
 * sleeps until a message comes. Written from the documented calls alone; the library is the one that is named.
 *
 *   libvfio_user_guest LIBRARY SOCKET        prints one line when it listens, and serves one client after another
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { SOCK = 0, PCI = 0, CONVENTIONAL = 0, NORMAL = 0, BAR0 = 0, READ_WRITE_MEMORY = 7, MSI = 1, VECTORS = 2, SIZE = 4096 };
enum { AREAS = 65536, PIECES = 32, MSI_WORDS = 6, MSI_ID = 5, TWO_VECTORS_WIDE = 0x82 };
enum { DOORBELL = 0x10, RUNG = 0x14, RAISE = 0x18, SOURCE = 0x20, DESTINATION = 0x28, LENGTH = 0x30, COMMAND = 0x34, STATUS = 0x38 };
enum { COPY_AND_RAISE = 0x101, DONE = 2, FAILED = 1u << 30, DONE_VECTOR = 1 };

typedef ssize_t access_callback(void *context, char *data, size_t count, off_t offset, bool write);
typedef void area_callback(void *context, void *area);

static uint8_t registers[SIZE];
static int (*trigger)(void *, uint32_t);
static int (*find)(void *, void *, size_t, void *, size_t, int);
static int (*get)(void *, void *, struct iovec *, size_t, int);
static void (*put)(void *, void *, struct iovec *, size_t);
static size_t (*piece_size)(void);

/* An area of the client's memory, where it is mapped here. */
struct area {
    void *pieces;
    struct iovec at[PIECES];
    int count;
};

static bool area_of(struct area *area, void *context, uint64_t address, size_t length, int protection)
{
    area->pieces = calloc(PIECES, piece_size());
    area->count = find(context, (void *)(uintptr_t)address, length, area->pieces, PIECES, protection);
    return area->count > 0 && get(context, area->pieces, area->at, (size_t)area->count, 0) == 0;
}

static void leave(struct area *area, void *context)
{
    put(context, area->pieces, area->at, (size_t)area->count);
    free(area->pieces);
}

static void move(struct area of_target, struct area of_source, size_t length)
{
    struct iovec *to = of_target.at, *from = of_source.at;

    while (length) {
        size_t count = to->iov_len < from->iov_len ? to->iov_len : from->iov_len;

        count = count < length ? count : length;
        memcpy(to->iov_base, from->iov_base, count);
        *to = (struct iovec){(char *)to->iov_base + count, to->iov_len - count};
        *from = (struct iovec){(char *)from->iov_base + count, from->iov_len - count};
        to += to->iov_len == 0;
        from += from->iov_len == 0;
        length -= count;
    }
}

static uint64_t value_at(size_t offset, size_t width)
{
    uint64_t value = 0;

    memcpy(&value, registers + offset, width);
    return value;
}

static void copy(void *context)
{
    struct area from, to;
    size_t length = value_at(LENGTH, 4);
    uint32_t status = FAILED;

    if (area_of(&from, context, value_at(SOURCE, 8), length, PROT_READ)) {
        if (area_of(&to, context, value_at(DESTINATION, 8), length, PROT_WRITE)) {
            move(to, from, length);
            status = DONE;
            leave(&to, context);
        }
        leave(&from, context);
    }
    memcpy(registers + STATUS, &status, sizeof status);
    trigger(context, DONE_VECTOR);
}

static ssize_t on_access(void *context, char *data, size_t count, off_t offset, bool write)
{
    uint32_t rung;

    if (!write) {
        memcpy(data, registers + offset, count);
        return (ssize_t)count;
    }
    memcpy(registers + offset, data, count);
    switch (offset) {
    case DOORBELL:
        rung = (uint32_t)value_at(RUNG, 4) + 1;
        memcpy(registers + RUNG, &rung, sizeof rung);
        break;
    case RAISE:
        trigger(context, (uint32_t)value_at(RAISE, 4));
        break;
    case COMMAND:
        if (value_at(COMMAND, 4) == COPY_AND_RAISE)
            copy(context);
    }
    return (ssize_t)count;
}

static void on_area(void *context, void *area)
{
    (void)context;
    (void)area;
}

static void *found(void *library, const char *name)
{
    void *function = dlsym(library, name);

    if (!function) {
        fprintf(stderr, "libvfio_user_guest: %s\n", dlerror());
        exit(1);
    }
    return function;
}

int main(int argc, char **argv)
{
    static uint32_t msi[MSI_WORDS] = {MSI_ID | TWO_VECTORS_WIDE << 16};
    void *library = argc == 3 ? dlopen(argv[1], RTLD_NOW) : NULL;

    if (!library) {
        fprintf(stderr, "usage: libvfio_user_guest LIBRARY SOCKET: %s\n", argc == 3 ? dlerror() : "two arguments");
        return 2;
    }
    void *(*create)(int, const char *, int, void *, int) = found(library, "vfu_create_ctx");
    int (*init)(void *, int, int, int) = found(library, "vfu_pci_init");
    void (*identify)(void *, uint16_t, uint16_t, uint16_t, uint16_t) = found(library, "vfu_pci_set_id");
    int (*setup)(void *, int, size_t, access_callback *, int, struct iovec *, uint32_t, int, uint64_t) =
        found(library, "vfu_setup_region");
    ssize_t (*add)(void *, size_t, int, void *) = found(library, "vfu_pci_add_capability");
    int (*vectors)(void *, int, uint32_t) = found(library, "vfu_setup_device_nr_irqs");
    int (*memory)(void *, size_t, area_callback *, area_callback *) = found(library, "vfu_setup_device_dma");
    int (*realize)(void *) = found(library, "vfu_realize_ctx");
    int (*attach)(void *) = found(library, "vfu_attach_ctx");
    int (*run)(void *) = found(library, "vfu_run_ctx");

    trigger = found(library, "vfu_irq_trigger");
    find = found(library, "vfu_addr_to_sgl");
    get = found(library, "vfu_sgl_get");
    put = found(library, "vfu_sgl_put");
    piece_size = found(library, "dma_sg_size");

    void *context = create(SOCK, argv[2], 0, NULL, PCI);

    if (context && init(context, CONVENTIONAL, NORMAL, 0) == 0)
        identify(context, 0x1234, 0x7e58, 0x1234, 1);
    if (!context || setup(context, BAR0, SIZE, on_access, READ_WRITE_MEMORY, NULL, 0, -1, 0) < 0 ||
        add(context, 0, 0, msi) < 0 || vectors(context, MSI, VECTORS) < 0 || memory(context, AREAS, on_area, on_area) < 0 ||
        realize(context) < 0) {
        perror("libvfio_user_guest");
        return 1;
    }
    puts("ready");
    fflush(stdout);
    while (attach(context) == 0)
        while (run(context) >= 0 || errno == EINTR)
            ;
    perror("libvfio_user_guest: attach");
    return 1;
}
