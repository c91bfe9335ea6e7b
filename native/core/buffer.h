/* The byte queues of a connection, and the descriptors that travel with their bytes. */
#ifndef VFU_BUFFER_H
#define VFU_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes [head, tail) of `data` are queued; `base` is the stream offset of data[0]. A ring is memory of a ledger, mapped
 * twice in a row: it belongs to that, and its bytes are never moved. */
typedef struct {
    uint8_t *data;
    size_t capacity, head, tail;
    uint64_t base;
    size_t small, quiet; /* how far it shrinks, and for how many uses it could have been smaller */
    size_t ring, used;   /* bytes of the ring (`capacity` is head + half of them), or 0; how far it was used */
} vfu_buffer;

void vfu_buffer_init(vfu_buffer *buffer, size_t small);
void vfu_buffer_free(vfu_buffer *buffer);
/* Room for `size` bytes after the tail (moves or grows the buffer, but not a ring); false: no memory. */
bool vfu_buffer_reserve(vfu_buffer *buffer, size_t size);
/* Bytes [head, head + size) are done with. An empty buffer rewinds, and shrinks when it has long been too large. */
void vfu_buffer_consume(vfu_buffer *buffer, size_t size);
/* A ring's head has moved: its second mapping is left as soon as the first shows all that is queued. */
void vfu_buffer_wrap(vfu_buffer *ring);

/* True if it holds more memory than it does at rest. */
static inline bool vfu_buffer_large(const vfu_buffer *b) { return !b->ring && b->capacity > b->small; }
/* An empty buffer that is large gives its memory back; the next use allocates the small size. */
void vfu_buffer_rest(vfu_buffer *buffer);

/* The caller gets the memory (not of a ring), to be freed, and what is queued moves elsewhere; false: there is no memory
 * for that, and nothing is queued any more. */
bool vfu_buffer_give_away(vfu_buffer *buffer, uint8_t **memory);

static inline size_t vfu_buffer_length(const vfu_buffer *b) { return b->tail - b->head; }
static inline uint64_t vfu_buffer_position(const vfu_buffer *b) { return b->base + b->head; }

/* Bytes that stay where they are until they were sent: they come before the buffered byte of stream offset `at`. */
typedef struct {
    uint64_t at;
    const uint8_t *bytes;
    size_t length;
    void *lender; /* who is told that they are done with */
} vfu_loan;

/* In order; `bytes` are those of all of them. */
typedef struct {
    vfu_loan *item;
    size_t head, tail, capacity, bytes;
} vfu_loans;

bool vfu_loans_push(vfu_loans *loans, const vfu_loan *loan);
static inline vfu_loan *vfu_loans_first(const vfu_loans *l) { return l->head < l->tail ? l->item + l->head : NULL; }

/* Descriptors in the order of the stream offset they belong to. */
typedef struct {
    uint64_t at;
    int fd;
} vfu_carried;

typedef struct {
    vfu_carried *item;
    size_t head, tail, capacity;
} vfu_fds;

bool vfu_fds_push(vfu_fds *fds, int fd, uint64_t at);
/* Takes out the descriptors that belong before stream offset `end`, at most `room`; more are closed. */
size_t vfu_fds_take(vfu_fds *fds, uint64_t end, int *into, size_t room);
void vfu_fds_free(vfu_fds *fds);
void vfu_fds_close(const int *fds, size_t count); /* closes each of them */

static inline size_t vfu_fds_length(const vfu_fds *f) { return f->tail - f->head; }

#endif
