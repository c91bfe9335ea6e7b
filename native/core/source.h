/* Page sources: files that areas lie in, counted by the areas that use them.
 *
 * A source is mapped once for the whole process, or it keeps one descriptor and is read and written by file I/O.
 */
#ifndef VFU_SOURCE_H
#define VFU_SOURCE_H

#include <stdint.h>

#include "ioas.h"

/* A source that has bytes [offset, offset + size), reached in the first of these `ways` (enum vfu_access, or'ed
 * together) that the file allows: mapped, then file I/O. NULL with *error = -errno. The caller keeps `fd`. */
vfu_source *vfu_source_get(int fd, uint64_t offset, uint64_t size, uint32_t prot, uint32_t ways, int *error);
void vfu_source_put(vfu_source *source);
enum vfu_access vfu_source_access(const vfu_source *source);

/* Moves bytes between the source and a buffer: 0, -EFAULT (the file was cut) or -EIO (it refuses file I/O). */
int vfu_source_read(const vfu_source *source, uint64_t offset, void *to, uint64_t length);
int vfu_source_write(const vfu_source *source, uint64_t offset, const void *from, uint64_t length);
/* Moves bytes between two sources. */
int vfu_source_copy(const vfu_source *from, uint64_t at, const vfu_source *to, uint64_t offset, uint64_t length);

#endif
