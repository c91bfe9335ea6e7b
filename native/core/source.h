/* Page sources: files mapped once for the whole process, counted by the areas that use them. */
#ifndef VFU_SOURCE_H
#define VFU_SOURCE_H

#include <stdint.h>

#include "ioas.h"

/* A source whose bytes [offset, offset + size) are mapped; NULL with *error = -errno. The caller keeps `fd`. */
vfu_source *vfu_source_get(int fd, uint64_t offset, uint64_t size, uint32_t prot, int *error);
void vfu_source_put(vfu_source *source);
uint8_t *vfu_source_at(const vfu_source *source, uint64_t offset);

#endif
