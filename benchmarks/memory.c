/* What the core does with the client's memory beside what a plain program does with plain memory: called by memory.py
 * through ctypes, linked with native/core. Every function returns nanoseconds (or bytes) of one side of a comparison;
 * who calls takes turns between the sides, so that a noisy machine is as noisy for both.
 */
#include <fcntl.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "../native/core/access.h"

enum { READ_WRITE = VFU_PROT_READ | VFU_PROT_WRITE, SMALL = 64, PLACES = 1 << 16, MIB = 1 << 20 };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void must(int ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    abort();
}

/* -- spaces ---------------------------------------------------------------------------------------------------------- */

/* A space in which `pages` pages of the file are cut into `areas` areas, as equal as whole pages can be. */
void *space_of(int fd, uint64_t pages, uint64_t areas, uint64_t page)
{
    vfu_ioas *ioas = malloc(sizeof(*ioas));
    uint64_t at = 0;

    must(ioas && vfu_ioas_init(ioas) == 0, "an address space");
    for (uint64_t i = 0; i < areas; i++) {
        uint64_t end = pages * (i + 1) / areas;
        must(vfu_ioas_map(ioas, at * page, (end - at) * page, READ_WRITE, fd, at * page, VFU_ACCESS_MAPPED) == 0, "map");
        at = end;
    }
    return ioas;
}

void drop_space(void *space)
{
    vfu_ioas_free(space);
    free(space);
}

/* Bytes on the heap for `count` areas of one file, mapped in steps of `stride` (1: in order; prime to count: not). */
double heap_of(int fd, uint64_t count, uint64_t stride, uint64_t page)
{
    vfu_ioas *ioas = space_of(fd, 1, 1, page);
    struct mallinfo2 before = mallinfo2(), after;

    for (uint64_t i = 1, at = stride % count; i < count; i++, at = (at + stride) % count)
        must(vfu_ioas_map(ioas, at * page, page, READ_WRITE, fd, at * page, VFU_ACCESS_MAPPED) == 0, "map");
    after = mallinfo2();
    drop_space(ioas);
    return (double)(after.uordblks + after.hblkhd) - (double)(before.uordblks + before.hblkhd);
}

/* -- copies ---------------------------------------------------------------------------------------------------------- */

/* One copy of `size` bytes, by memcpy (space NULL: from or to `plain`) or through the space. */
double copy(void *space, uint8_t *plain, uint8_t *buffer, uint64_t size, int write, int times)
{
    double start = now();

    for (int i = 0; i < times; i++) {
        if (!space)
            memcpy(write ? plain : buffer, write ? buffer : plain, size);
        else if (write)
            must(vfu_ioas_write(space, 0, buffer, size) == 0, "write");
        else
            must(vfu_ioas_read(space, 0, buffer, size) == 0, "read");
        __asm__ volatile("" ::: "memory");
    }
    return (now() - start) / times;
}

/* Copies of 64 bytes at random places of `bytes` bytes. */
double translate(void *space, uint64_t bytes)
{
    static uint64_t place[PLACES];
    uint8_t buffer[SMALL];
    uint64_t seed = 88172645463325252u;
    double start;

    for (size_t i = 0; i < PLACES; i++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        place[i] = seed % (bytes / SMALL) * SMALL;
    }
    start = now();
    for (size_t i = 0; i < PLACES; i++)
        must(vfu_ioas_read(space, place[i], buffer, SMALL) == 0, "read");
    return (now() - start) / PLACES;
}

/* One preadv of a whole file into the space, or (NULL) into plain memory. */
double whole_file(void *space, uint8_t *plain, int fd, uint64_t size)
{
    struct iovec vector = {plain, size};
    vfu_piece piece = {0, size};
    double start = now();
    ssize_t moved = space ? vfu_ioas_preadv(space, fd, &piece, 1, 0) : preadv(fd, &vector, 1, 0);

    must(moved == (ssize_t)size, "preadv");
    return now() - start;
}

/* -- maps ------------------------------------------------------------------------------------------------------------ */

/* Receives `count` messages with a descriptor each, and does with it what nobody can do without. */
int bare(int fd, int count, uint64_t size)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    uint8_t buffer[256];

    for (int i = 0; i < count; i++) {
        struct iovec data = {buffer, size};
        struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
                                 .msg_controllen = sizeof(control.bytes)};
        struct stat st;
        int file;
        if (recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != (ssize_t)size || !CMSG_FIRSTHDR(&message))
            return -1;
        memcpy(&file, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(file));
        if (fstat(file, &st) < 0 || close(file) < 0)
            return -1;
    }
    return 0;
}
