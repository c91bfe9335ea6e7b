/* An address space as an object, shared by the files that bind it. */
#ifndef VFU_PY_IOAS_H
#define VFU_PY_IOAS_H

#include "binding.h"

#include "../core/access.h"

typedef struct {
    PyObject_HEAD
    vfu_ioas ioas;
    GateObject *gate;
    bool ready;
} IoasObject;

/* The accesses, appended to the methods of Ioas. */
#define IOAS_ACCESSES(X) \
    X(plan, "plan(iova, length, prot): the access cut at area borders.") \
    X(read, "read(iova, length) -> bytes, or None: messages are needed") \
    X(read_into, "read_into(iova, buffer) -> False: messages are needed") \
    X(write, "write(iova, data) -> False: messages are needed") \
    X(read_unproven, "read_unproven(iova, length) -> bytes") \
    X(write_unproven, "write_unproven(iova, data)") \
    X(copy, "copy(source, destination, length), both IOVAs -> False: messages are needed") \
    X(atomic, "atomic(operation, iova, size, operand=0, expected=0) -> what was there") \
    X(preadv, "preadv(fd, pieces, offset) -> bytes moved") \
    X(pwritev, "pwritev(fd, pieces, offset) -> bytes moved")

#define DECLARE(name, doc) PyObject *ioas_##name(IoasObject *self, PyObject *args);
IOAS_ACCESSES(DECLARE)
#undef DECLARE

/* A DmaError that says what could not be done where, and why; always NULL. */
PyObject *dma_failed(int error, uint64_t iova, uint64_t length, const char *what);
/* A converter of PyArg_Parse: an int of 64 bits, or DmaError(EFAULT). */
int take_u64(PyObject *object, void *value);
PyObject *core_sources(PyObject *module, PyObject *args);
/* A sequence of (first, last) pairs, freed with PyMem_Free; NULL with an exception. */
vfu_span *take_spans(PyObject *sequence, size_t *count);

/* A space that another process goes on with. */
PyObject *ioas_carry(IoasObject *ioas, PyObject *unused);
PyObject *ioas_adopt(IoasObject *ioas, PyObject *args);
PyObject *ioas_carry_log(IoasObject *ioas, PyObject *unused);
PyObject *ioas_adopt_log(IoasObject *ioas, PyObject *args);

extern PyTypeObject PinType;

#endif
