/* A stream as data, for the process that goes on with its connection. */
#include "py_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* -- out ------------------------------------------------------------------------------------------------------------ */

static PyObject *offsets(const vfu_fds *fds, uint64_t position)
{
    PyObject *list = PyList_New(0);

    for (size_t i = fds->head; list && i < fds->tail; i++) {
        uint64_t at = fds->item[i].at;
        PyObject *item = Py_BuildValue("Ki", (unsigned long long)(at > position ? at - position : 0), fds->item[i].fd);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *bytes_in(const vfu_buffer *b)
{
    return PyBytes_FromStringAndSize(b->data ? (const char *)b->data + b->head : NULL, (Py_ssize_t)vfu_buffer_length(b));
}

/* Why the stream cannot be carried or filled now, or NULL. */
static const char *busy(const StreamObject *self)
{
    if (self->closed)
        return "the stream is closed";
    if (vfu_stream_broken(&self->stream))
        return "the stream is broken";
    if (self->stream.processing)
        return "the stream is being served";
    return self->stream.held.kind != VFU_HELD_NOTHING ? "a command is held" : NULL;
}

PyObject *stream_carry(StreamObject *self, PyObject *unused)
{
    vfu_stream *s = &self->stream;
    const char *reason = busy(self);

    (void)unused;
    if (reason)
        return PyErr_Format(LocalError, "a stream cannot be carried now: %s", reason);
    if (!vfu_stream_settle(s))
        return PyErr_NoMemory();
    return Py_BuildValue("NNNN", bytes_in(&s->rx), offsets(&s->rx_fds, vfu_buffer_position(&s->rx)), bytes_in(&s->tx),
                         offsets(&s->tx_fds, vfu_buffer_position(&s->tx)));
}

/* -- in ------------------------------------------------------------------------------------------------------------- */

/* One direction while it is put together; its descriptors are duplicates. */
typedef struct {
    Py_buffer data;
    vfu_carried *carried;
    size_t count;
} Incoming;

static void close_all(Incoming *in)
{
    while (in->count)
        close(in->carried[--in->count].fd);
}

static int duplicate(PyObject *item, vfu_carried *carried)
{
    unsigned long long at;
    int fd;

    if (!PyTuple_Check(item)) {
        PyErr_Format(PyExc_TypeError, "a descriptor is (offset, fd), not %R", item);
        return -1;
    }
    if (!PyArg_ParseTuple(item, "Ki;a descriptor is (offset, fd)", &at, &fd))
        return -1;
    *carried = (vfu_carried){.at = at, .fd = fcntl(fd, F_DUPFD_CLOEXEC, 3)};
    if (carried->fd < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    return carried->fd < 0 ? -1 : 0;
}

static int duplicate_all(Incoming *in, PyObject *sequence)
{
    PyObject *tuple = PySequence_Tuple(sequence);
    size_t count = tuple ? (size_t)PyTuple_GET_SIZE(tuple) : 0;

    in->carried = tuple ? PyMem_New(vfu_carried, count + 1) : NULL;
    if (tuple && !in->carried)
        PyErr_NoMemory();
    while (!PyErr_Occurred() && in->count < count &&
           duplicate(PyTuple_GET_ITEM(tuple, (Py_ssize_t)in->count), &in->carried[in->count]) == 0)
        in->count++;
    Py_XDECREF(tuple);
    return PyErr_Occurred() ? -1 : 0;
}

static vfu_queue queue(const Incoming *in)
{
    return (vfu_queue){.bytes = in->data.buf, .length = (size_t)in->data.len, .fds = in->carried, .count = in->count};
}

static bool fresh(const vfu_stream *s)
{
    return !s->received && !vfu_buffer_position(&s->rx) && !vfu_buffer_length(&s->rx) && !vfu_buffer_position(&s->tx) &&
           !vfu_stream_queued(s) && !vfu_fds_length(&s->rx_fds);
}

/* The stream takes over the duplicates, or an exception says why not. */
static void fill(StreamObject *self, Incoming *rx, Incoming *tx)
{
    const vfu_queue in = queue(rx), out = queue(tx);
    const char *reason = busy(self);
    int error;

    if (!reason && !fresh(&self->stream))
        reason = "something has passed through it";
    if (reason) {
        PyErr_Format(LocalError, "a stream cannot be filled now: %s", reason);
        return;
    }
    error = vfu_stream_adopt(&self->stream, &in, &out);
    if (error == -ENOMEM)
        PyErr_NoMemory();
    else if (error == -EBUSY)
        PyErr_SetString(LocalError, "a stream with a ledger takes one unsent message with descriptors: send the first");
    else if (error)
        PyErr_SetString(PyExc_ValueError, "descriptors must be in order, each beside a byte, and those to be sent at most "
                                          "253 beside the first byte of a whole message");
    else
        rx->count = tx->count = 0;
}

PyObject *stream_adopt(StreamObject *self, PyObject *args)
{
    Incoming rx = {0}, tx = {0};
    PyObject *rx_fds, *tx_fds;

    if (!PyArg_ParseTuple(args, "y*Oy*O:adopt", &rx.data, &rx_fds, &tx.data, &tx_fds))
        return NULL;
    if (duplicate_all(&rx, rx_fds) == 0 && duplicate_all(&tx, tx_fds) == 0)
        fill(self, &rx, &tx);
    close_all(&rx);
    close_all(&tx);
    PyMem_Free(rx.carried);
    PyMem_Free(tx.carried);
    PyBuffer_Release(&rx.data);
    PyBuffer_Release(&tx.data);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

PyObject *stream_serve(StreamObject *self, PyObject *unused)
{
    StreamObject *outer = serving;

    (void)unused;
    if (self->closed || self->stream.processing)
        return PyErr_Format(LocalError, "the stream is closed, or being served already");
    serving = self;
    vfu_stream_process(&self->stream);
    serving = outer;
    if (self->closed)
        vfu_stream_free(&self->stream);
    Py_RETURN_NONE;
}
