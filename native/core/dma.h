/* DMA_MAP and DMA_UNMAP where nothing is in doubt; everything else, and every refusal, is the owner's to say. */
#ifndef VFU_DMA_H
#define VFU_DMA_H

#include "stream.h"

/* True: it is done and answered, and the descriptors are closed. False: nothing has happened. */
bool vfu_dma_command(vfu_stream *stream, const vfu_header *header, const uint8_t *payload, size_t length, int *fds,
                     size_t count);

#endif
