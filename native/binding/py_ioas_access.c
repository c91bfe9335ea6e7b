/* Accesses to an address space. Large ones, and all that may be file I/O, give up the GIL. */
#include "py_ioas.h"

#include <errno.h>

#include "../core/access.h"

enum { LARGE = 65536, PIECES_ON_STACK = 64 };

PyObject *dma_failed(int error, uint64_t iova, uint64_t length, const char *what)
{
    static const struct {
        int error, number;
        const char *why;
    } reasons[] = {
        {-VFU_NOT_MASTER, EPERM, "bus mastering is off (COMMAND bit 2)"},
        {-VFU_STOPPED, EBUSY, "the device is stopped"},
        {-EPERM, EPERM, "permission denied"},
        {-EIO, EIO, "the client's file refuses"},
        {-ENOTCONN, EFAULT, "messages are needed to reach it: await read() or write() in a job"},
        {-ENOSPC, ENOSPC, "too many views are pinned"},
        {-EINVAL, EINVAL, "it is not aligned, or no legal size"},
        {-EFAULT, EFAULT, "the range is not mapped, or its file was cut"},
    };
    const char *why = "the system refuses";
    int number = -error;

    for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++)
        if (reasons[i].error == error) {
            number = reasons[i].number;
            why = reasons[i].why;
        }
    return raise_errno(DmaError, number, "%s %llu bytes at IOVA %#llx: %s", what, (unsigned long long)length,
                       (unsigned long long)iova, why);
}

/* For O&: a device adds to what a guest told it, so a sum beyond 64 bits must not come out at address 0. */
int take_u64(PyObject *object, void *value)
{
    unsigned long long taken = PyLong_AsUnsignedLongLong(object);

    if (taken == (unsigned long long)-1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Clear();
            raise_errno(DmaError, EFAULT, "DMA at an IOVA, or of a length, that is not in 0..2**64-1");
        }
        return 0;
    }
    *(unsigned long long *)value = taken;
    return 1;
}

/* -- plan ----------------------------------------------------------------------------------------------------------- */

static int append(PyObject *list, const vfu_extent *e)
{
    PyObject *item = Py_BuildValue("KKiKO", e->iova, e->length, (int)e->access,
                                   (unsigned long long)(e->source ? e->source->id : 0), e->unproven ? Py_True : Py_False);
    int error = item ? PyList_Append(list, item) : -1;

    Py_XDECREF(item);
    return error;
}

/* The lock is never held while Python allocates: a collection may run a finaliser that unmaps. */
static int next_extent(IoasObject *self, uint64_t iova, uint64_t length, unsigned prot, vfu_extent *e)
{
    int error = vfu_ioas_enter(&self->ioas);

    if (error)
        return error;
    error = vfu_ioas_extent(&self->ioas, iova, length, prot, e);
    vfu_ioas_leave(&self->ioas);
    return error;
}

PyObject *ioas_plan(IoasObject *self, PyObject *args)
{
    unsigned long long iova, length;
    unsigned int prot;
    vfu_extent e;
    PyObject *list;

    if (!PyArg_ParseTuple(args, "O&O&I:plan", take_u64, &iova, take_u64, &length, &prot))
        return NULL;
    if (length && vfu_last(iova, length) < iova)
        return dma_failed(-EFAULT, iova, length, "cannot reach");
    list = PyList_New(0);
    for (unsigned long long done = 0; list && done < length; done += e.length) {
        int error = next_extent(self, iova + done, length - done, prot, &e);
        if (error)
            dma_failed(error, iova + done, length - done, prot & VFU_PROT_WRITE ? "cannot write" : "cannot read");
        if (error || append(list, &e) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/* -- copies --------------------------------------------------------------------------------------------------------- */

typedef int Move(vfu_ioas *ioas, uint64_t iova, void *buffer, uint64_t length);

static int read_proven(vfu_ioas *ioas, uint64_t iova, void *to, uint64_t length)
{
    return vfu_ioas_read(ioas, iova, to, length);
}

static int read_any(vfu_ioas *ioas, uint64_t iova, void *to, uint64_t length)
{
    return vfu_ioas_read_unproven(ioas, iova, to, length);
}

static int write_proven(vfu_ioas *ioas, uint64_t iova, void *from, uint64_t length)
{
    return vfu_ioas_write(ioas, iova, from, length);
}

static int write_any(vfu_ioas *ioas, uint64_t iova, void *from, uint64_t length)
{
    return vfu_ioas_write_unproven(ioas, iova, from, length);
}

static int run(IoasObject *self, Move *move, uint64_t iova, void *buffer, Py_ssize_t length)
{
    int error;

    if (length < LARGE && !self->ioas.files)
        return move(&self->ioas, iova, buffer, (uint64_t)length);
    Py_BEGIN_ALLOW_THREADS
    error = move(&self->ioas, iova, buffer, (uint64_t)length);
    Py_END_ALLOW_THREADS
    return error;
}

static PyObject *read_bytes(IoasObject *self, PyObject *args, Move *move)
{
    unsigned long long iova;
    Py_ssize_t length;
    PyObject *bytes;
    int error;

    if (!PyArg_ParseTuple(args, "O&n:read", take_u64, &iova, &length))
        return NULL;
    if (length < 0)
        return dma_failed(-EINVAL, iova, 0, "cannot read a negative number of");
    bytes = PyBytes_FromStringAndSize(NULL, length);
    if (!bytes)
        return NULL;
    error = run(self, move, iova, PyBytes_AS_STRING(bytes), length);
    if (!error)
        return bytes;
    Py_DECREF(bytes);
    if (error == -ENOTCONN && move == read_proven)
        Py_RETURN_NONE;
    return dma_failed(error, iova, (uint64_t)length, "cannot read");
}

/* True, or False: messages are needed; NULL: an error. */
static PyObject *move_buffer(IoasObject *self, unsigned long long iova, Py_buffer *buffer, Move *move, const char *what)
{
    Py_ssize_t length = buffer->len;
    int error = run(self, move, iova, buffer->buf, length);

    PyBuffer_Release(buffer);
    if (error && !(error == -ENOTCONN && move != write_any))
        return dma_failed(error, iova, (uint64_t)length, what);
    return PyBool_FromLong(!error);
}

PyObject *ioas_read(IoasObject *self, PyObject *args)
{
    return read_bytes(self, args, read_proven);
}

PyObject *ioas_read_unproven(IoasObject *self, PyObject *args)
{
    return read_bytes(self, args, read_any);
}

PyObject *ioas_read_into(IoasObject *self, PyObject *args)
{
    unsigned long long iova;
    Py_buffer buffer;

    if (!PyArg_ParseTuple(args, "O&w*:read_into", take_u64, &iova, &buffer))
        return NULL;
    return move_buffer(self, iova, &buffer, read_proven, "cannot read");
}

static PyObject *write_buffer(IoasObject *self, PyObject *args, Move *move)
{
    unsigned long long iova;
    Py_buffer buffer;

    if (!PyArg_ParseTuple(args, "O&y*:write", take_u64, &iova, &buffer))
        return NULL;
    return move_buffer(self, iova, &buffer, move, "cannot write");
}

PyObject *ioas_write(IoasObject *self, PyObject *args)
{
    return write_buffer(self, args, write_proven);
}

PyObject *ioas_write_unproven(IoasObject *self, PyObject *args)
{
    return write_buffer(self, args, write_any);
}

PyObject *ioas_copy(IoasObject *self, PyObject *args)
{
    unsigned long long source, destination, length;
    int error;

    if (!PyArg_ParseTuple(args, "O&O&O&:copy", take_u64, &source, take_u64, &destination, take_u64, &length))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    error = vfu_ioas_copy(&self->ioas, source, destination, length);
    Py_END_ALLOW_THREADS
    if (error && error != -ENOTCONN)
        return dma_failed(error, source, length, "cannot copy");
    return PyBool_FromLong(!error);
}

PyObject *ioas_atomic(IoasObject *self, PyObject *args)
{
    unsigned long long iova, operand = 0, expected = 0;
    unsigned int operation, size;
    uint64_t old;
    int error;

    if (!PyArg_ParseTuple(args, "IO&I|KK:atomic", &operation, take_u64, &iova, &size, &operand, &expected))
        return NULL;
    error = operation > VFU_COMPARE ? -EINVAL
                                    : vfu_ioas_atomic(&self->ioas, operation, iova, size, operand, expected, &old);
    return error ? dma_failed(error, iova, size, "cannot access") : PyLong_FromUnsignedLongLong(old);
}

/* -- between a file and the space ------------------------------------------------------------------------------------ */

typedef ssize_t FileIo(vfu_ioas *ioas, int fd, const vfu_piece *piece, size_t count, off_t offset);

static int take_pieces(PyObject *list, vfu_piece *piece, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        unsigned long long iova, length;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(list, i), "O&O&;a piece is (iova, length)", take_u64, &iova, take_u64,
                              &length))
            return -1;
        piece[i] = (vfu_piece){iova, length};
    }
    return 0;
}

static PyObject *run_file_io(IoasObject *self, FileIo *io, int fd, const vfu_piece *piece, size_t count, long long offset)
{
    uint64_t iova = count ? piece[0].iova : 0, length = 0;
    ssize_t moved;

    for (size_t i = 0; i < count; i++)
        length += piece[i].length;
    Py_BEGIN_ALLOW_THREADS
    moved = io(&self->ioas, fd, piece, count, offset);
    Py_END_ALLOW_THREADS
    if (moved < 0)
        return dma_failed((int)moved, iova, length, io == vfu_ioas_preadv ? "cannot fill from a file"
                                                                           : "cannot write to a file");
    return PyLong_FromSsize_t(moved);
}

static PyObject *file_io(IoasObject *self, PyObject *args, FileIo *io)
{
    vfu_piece small[PIECES_ON_STACK], *piece = small;
    PyObject *pieces, *list, *result = NULL;
    long long offset;
    Py_ssize_t count;
    int fd;

    if (!PyArg_ParseTuple(args, "iOL", &fd, &pieces, &offset))
        return NULL;
    list = PySequence_Tuple(pieces);
    if (!list)
        return NULL;
    count = PyTuple_GET_SIZE(list);
    if (count > PIECES_ON_STACK && !(piece = PyMem_New(vfu_piece, (size_t)count)))
        PyErr_NoMemory();
    else if (take_pieces(list, piece, count) == 0)
        result = run_file_io(self, io, fd, piece, (size_t)count, offset);
    if (piece != small)
        PyMem_Free(piece);
    Py_DECREF(list);
    return result;
}

PyObject *ioas_preadv(IoasObject *self, PyObject *args)
{
    return file_io(self, args, vfu_ioas_preadv);
}

PyObject *ioas_pwritev(IoasObject *self, PyObject *args)
{
    return file_io(self, args, vfu_ioas_pwritev);
}
