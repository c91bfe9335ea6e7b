/* The peer of the benchmarks: a server on libvfio-user's public API. BAR0 has 4 KiB and a callback in C. Written from
 * the documented calls alone; the library is the one that is named.
 *
 *   libvfio_user LIBRARY SOCKET sleep|poll     prints one line when it listens, and serves one client after another;
 *                                              until a message comes it sleeps, or calls vfu_run_ctx without a pause
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { SOCK = 0, PCI = 0, CONVENTIONAL = 0, NORMAL = 0, NON_BLOCKING = 1, BAR0 = 0,
       READ_WRITE_MEMORY = 7, SIZE = 4096 };

typedef ssize_t access_callback(void *context, char *data, size_t count, off_t offset, bool write);

static uint8_t registers[SIZE];

static ssize_t on_access(void *context, char *data, size_t count, off_t offset, bool write)
{
    (void)context;
    if (write)
        memcpy(registers + offset, data, count);
    else
        memcpy(data, registers + offset, count);
    return (ssize_t)count;
}

static void *found(void *library, const char *name)
{
    void *function = dlsym(library, name);

    if (!function) {
        fprintf(stderr, "libvfio_user: %s\n", dlerror());
        exit(1);
    }
    return function;
}

/* Waits for a client without using the processor, however the context is. */
static void await_client(int listener)
{
    struct pollfd one = {.fd = listener, .events = POLLIN};

    while (poll(&one, 1, -1) < 0 && errno == EINTR)
        ;
}

int main(int argc, char **argv)
{
    void *library = argc == 4 ? dlopen(argv[1], RTLD_NOW) : NULL;

    if (!library) {
        fprintf(stderr, "usage: libvfio_user LIBRARY SOCKET sleep|poll: %s\n", argc == 4 ? dlerror() : "three arguments");
        return 2;
    }
    void *(*create)(int, const char *, int, void *, int) = found(library, "vfu_create_ctx");
    int (*init)(void *, int, int, int) = found(library, "vfu_pci_init");
    void (*identify)(void *, uint16_t, uint16_t, uint16_t, uint16_t) = found(library, "vfu_pci_set_id");
    int (*setup)(void *, int, size_t, access_callback *, int, struct iovec *, uint32_t, int, uint64_t) =
        found(library, "vfu_setup_region");
    int (*realize)(void *) = found(library, "vfu_realize_ctx");
    int (*descriptor)(void *) = found(library, "vfu_get_poll_fd");
    int (*attach)(void *) = found(library, "vfu_attach_ctx");
    int (*run)(void *) = found(library, "vfu_run_ctx");
    void *context = create(SOCK, argv[2], strcmp(argv[3], "poll") ? 0 : NON_BLOCKING, NULL, PCI);

    if (context && init(context, CONVENTIONAL, NORMAL, 0) == 0)
        identify(context, 0x1234, 0x7e58, 0x1234, 1);
    if (!context || setup(context, BAR0, SIZE, on_access, READ_WRITE_MEMORY, NULL, 0, -1, 0) < 0 ||
        realize(context) < 0) {
        perror("libvfio_user");
        return 1;
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        await_client(descriptor(context));
        if (attach(context) == 0)
            while (run(context) >= 0 || errno == EINTR)
                ;
        else if (errno != EAGAIN && errno != EINTR)
            break;
    }
    perror("libvfio_user: attach");
    return 1;
}
