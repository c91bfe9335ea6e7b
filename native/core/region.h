/* The region commands: accesses served by tables or by the owner, and commands that are answered later. */
#ifndef VFU_REGION_H
#define VFU_REGION_H

#include "stream.h"

/* REGION_READ and REGION_WRITE. */
void vfu_region_access_command(vfu_stream *stream, const vfu_header *header, const uint8_t *payload, size_t length);
/* REGION_WRITE_MULTI: a list of writes, each as if it had come alone. The payload is used as scratch. */
void vfu_region_write_multi(vfu_stream *stream, const vfu_header *header, uint8_t *payload, size_t length);

/* The answer to an access that failed (`masked_errors` may turn it into all ones). */
void vfu_region_failed(vfu_stream *stream, const vfu_header *header, const vfu_region_access *access, int error);

/* From now on the command waits for vfu_stream_complete_*. */
void vfu_stream_hold(vfu_stream *stream, enum vfu_held_kind kind, const vfu_header *header);
void vfu_held_clear(vfu_held *held);

#endif
