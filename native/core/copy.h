/* Copies of what is larger than the caches and not looked at soon: they go around them, where the processor can. */
#ifndef VFU_COPY_H
#define VFU_COPY_H

#include <stddef.h>
#include <stdint.h>

/* As memcpy. */
void vfu_copy_far(uint8_t *into, const uint8_t *bytes, size_t length);

#endif
