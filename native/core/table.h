/* Register tables: registers that need no Python, and the places where hooks hang.
 *
 * A layout is made once per device class; a table is one instance: a bank of values behind the layout. What a bit does
 * is data (masks), never a register's name. An access is cut into the largest naturally aligned pieces of 8, 4, 2 or
 * 1 bytes that stay inside one register (one element of an array) or one gap between registers.
 */
#ifndef VFU_TABLE_H
#define VFU_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gate.h"

enum {
    VFU_ROW_COUNT = 1u << 0,
    VFU_ROW_STRICT = 1u << 1,
    VFU_ROW_SPLIT_HIGH = 1u << 2,
    VFU_ROW_SPLIT_LOW = 1u << 3,
    VFU_ROW_MEMORY = 1u << 4,
    VFU_ROW_READ_HOOK = 1u << 5,
    VFU_ROW_WRITE_HOOK = 1u << 6,
    VFU_ROW_READ_ONLY = 1u << 7,
    VFU_ROW_LATEST = 1u << 8, /* the hook is called once for writes that came together, with the last value */
    VFU_ROW_ALL = 1u << 9,    /* ... with all of them */
};

typedef struct {
    uint64_t offset, end; /* [offset, end) in the region */
    uint64_t readable, read_clear, store, write_1_clear, write_1_set;
    uint32_t width, count, flags;
    size_t slot;   /* in the bank */
    bool external; /* (MEMORY) has no bytes in the bank: the instance must bring memory */
} vfu_row;

typedef struct {
    uint64_t size;
    size_t rows, bank_size;
    bool strict; /* some row is STRICT */
    bool joins;  /* some row is LATEST or ALL */
    vfu_row *row;   /* sorted by offset */
    uint8_t *reset; /* the bank's image at power-on */
} vfu_layout;

/* What a hook, and vfu_table_access, may answer besides a negative errno. */
enum {
    VFU_DONE = 0,   /* (hook) the value is in *value */
    VFU_STORED = 1, /* (hook) no value: use the stored one, or store what was written */
    VFU_LATER = 2,  /* the answer comes by vfu_table_resume */
};

typedef struct vfu_cursor vfu_cursor;

typedef struct {
    int (*read)(void *owner, size_t row, uint32_t element, uint64_t *value);
    int (*write)(void *owner, const vfu_cursor *cursor, uint64_t *value);
    void (*undeclared)(void *owner, uint64_t offset, uint32_t width, bool write, uint64_t value);
} vfu_hooks;

typedef struct {
    const vfu_layout *layout;
    uint8_t *bank;
    uint8_t **memory;   /* by row: what backs a MEMORY row, NULL for the bank */
    uint64_t *latch;    /* by row: the half of a SPLIT register that was written */
    bool *latched;
    vfu_gate *gate;
    uint32_t needs;
    uint64_t undeclared;
    const vfu_hooks *hooks;
    void *owner;
} vfu_table;

/* An access in progress: `done` of `count` bytes are through; it can wait for a hook and go on. */
struct vfu_cursor {
    uint64_t offset;
    uint32_t count, done;
    uint8_t *data;
    bool write;
    bool checked;
    /* the piece that waits */
    size_t row;
    uint32_t element;
    uint32_t step;         /* how many bytes of the access it takes */
    uint32_t width, shift; /* which bytes of the register: `width` of them, from bit `shift` */
    uint64_t incoming;     /* what is written, in place */
    /* writes of the same bytes that came just before this one, and are served with it, until the hook has seen them */
    const uint8_t *earlier; /* the first one's data; the next ones' lie `stride` bytes apart */
    uint32_t joined, stride;
};

size_t vfu_layout_find(const vfu_layout *layout, uint64_t offset); /* the row that covers it, or SIZE_MAX */

int vfu_table_init(vfu_table *table, const vfu_layout *layout); /* 0 or -ENOMEM */
void vfu_table_free(vfu_table *table);

/* True if writes that follow this one directly, of the same bytes, may be served with it: it is of a whole register that is
 * LATEST or ALL, and has an effect. */
bool vfu_table_joins(const vfu_table *table, const vfu_cursor *cursor);

int vfu_table_access(vfu_table *table, vfu_cursor *cursor);
/* The hook's answer has come: `value` unless `stored`. Returns as vfu_table_access. */
int vfu_table_resume(vfu_table *table, vfu_cursor *cursor, bool stored, uint64_t value);

uint8_t *vfu_table_bytes(const vfu_table *table, size_t row, uint32_t element);
uint64_t vfu_load(const uint8_t *from, uint32_t width);
void vfu_store(uint8_t *to, uint32_t width, uint64_t value);
uint64_t vfu_width_mask(uint32_t width);
void vfu_table_reset(vfu_table *table);

#endif
