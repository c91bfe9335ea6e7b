/* File I/O on a client's descriptor: how memory is reached that has a file, but none that can or may be mapped. */
#ifndef VFU_FILE_H
#define VFU_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

/* Whether st_size says where the file ends. Not so for devices, nor for /proc/PID/mem, which calls itself empty. */
bool vfu_file_has_size(int fd, const struct stat *st);
/* 0, or -EPERM: the descriptor was not opened for that. Another client's may have been, so sharing does not excuse it. */
int vfu_file_permits(int fd, bool read, bool write);
/* 0, or -EINVAL: it cannot be read or written at any place (a pipe, a socket, a directory), or it was opened to append:
 * a write then goes to the end, whatever place it names. */
int vfu_file_check(int fd, bool write);

/* All of `length` bytes, or -EFAULT (the file ends before), or -EIO (it refuses). */
int vfu_file_read(int fd, uint64_t offset, void *to, uint64_t length);
/* The same; a file that has a size (`sized`) never becomes longer by it. */
int vfu_file_write(int fd, bool sized, uint64_t offset, const void *from, uint64_t length);

#endif
