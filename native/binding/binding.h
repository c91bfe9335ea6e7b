/* What the files of the binding share. Everything Python lives here; native/core knows none of it. */
#ifndef VFU_BINDING_H
#define VFU_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../core/gate.h"
#include "../core/ioas.h"
#include "../core/stream.h"
#include "../core/table.h"

typedef struct {
    PyObject_HEAD
    vfu_gate gate;
} GateObject;

typedef struct {
    PyObject_HEAD
    vfu_layout layout;
} LayoutObject;

typedef struct {
    PyObject *read, *write; /* bound hooks of one row, or NULL */
} RowHooks;

typedef struct {
    PyObject_HEAD
    vfu_table table;
    LayoutObject *layout;
    GateObject *gate;
    RowHooks *hooks;    /* by row */
    Py_buffer *memory;  /* what backs MEMORY rows */
    size_t memories;
    PyObject *on_undeclared;
} TableObject;

typedef struct StreamObject {
    PyObject_HEAD
    vfu_stream stream;
    PyObject *command, *reply, *on_later, *on_hook_error;
    PyObject *regions; /* keeps the tables and callables of stream.region alive */
    PyObject *later;   /* the object that on_later will be told of */
    PyObject *dma;     /* keeps the address space of stream.dma alive */
    PyObject *ledger;  /* keeps stream.ledger alive; NULL: there is none */
    bool closed;
} StreamObject;

extern PyTypeObject GateType, LayoutType, TableType, IoasType, StreamType, PumpType, LedgerType;

/* Classes of vfuserver.errors. */
extern PyObject *CommandError, *DmaError, *PeerError, *LocalError, *DeclarationError;

PyObject *raise_errno(PyObject *class, int error, const char *format, ...); /* always NULL */
/* Takes the raised exception: the errno of a CommandError, 0 for any other; the caller owns *exception. */
int take_exception(PyObject **exception);
int bytes_from(PyObject *object, Py_buffer *buffer); /* a contiguous readable buffer, or -1 with TypeError */

/* The GIL and the spinning pump: while the pump polls without it, `released` is its thread state. Whoever needs
 * Python calls need_gil first; the pump gives it up again before it polls. */
extern _Thread_local PyThreadState *released;
static inline void need_gil(void)
{
    if (released) {
        PyThreadState *state = released;
        released = NULL;
        PyEval_RestoreThread(state);
    }
}

/* What was served on this thread has given the loop something to do at once: a pump that polls goes back to it. */
extern _Thread_local bool loop_wanted;

/* The stream that is being served on this thread: where hook errors and "later" go. NULL: a table is called directly. */
extern _Thread_local StreamObject *serving;
/* A hook's exception or "later" outside a stream, for the caller of the table. */
extern _Thread_local PyObject *stray;

void stream_hook_error(StreamObject *stream, int region, uint64_t offset, PyObject *exception);

extern const vfu_hooks table_hooks; /* the owner is a TableObject */

extern PyObject *structs_dict(void);
PyObject *core_remap(PyObject *module, PyObject *args);
int add_ledger_report(PyObject *module);
extern PyObject *core_crc32(PyObject *module, PyObject *args);
extern PyObject *core_copy_crc32(PyObject *module, PyObject *args);
extern PyObject *core_copy_far(PyObject *module, PyObject *args);
extern PyObject *core_snapshot(PyObject *module, PyObject *args);

#endif
