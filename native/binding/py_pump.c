#include "binding.h"

#include <errno.h>
#include <time.h>

#include "../core/pump.h"

/* Messages with descriptors come one by one: so many are taken in before their replies leave. */
enum { BURST = 32 };

_Thread_local PyThreadState *released;

typedef struct {
    PyObject_HEAD
    StreamObject *stream;
    int fd, error;
} PumpObject;

static int pump_init(PumpObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"stream", "fd", NULL};
    PyObject *stream;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!i:Pump", names, &StreamType, &stream, &self->fd))
        return -1;
    Py_XSETREF(self->stream, (StreamObject *)Py_NewRef(stream));
    vfu_pump_prepare(&self->stream->stream, self->fd);
    return 0;
}

static int pump_traverse(PumpObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->stream);
    return 0;
}

static int pump_clear(PumpObject *self)
{
    Py_CLEAR(self->stream);
    return 0;
}

static void pump_dealloc(PumpObject *self)
{
    PyObject_GC_UnTrack(self);
    pump_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* What the caller waits for next. `error` is a negative errno or 0, `full` says that the socket takes no more. */
static int status(PumpObject *self, long error, bool full)
{
    const vfu_stream *s = &self->stream->stream;
    int flags = 0;

    if (error == -EPIPE || error == -ECONNRESET)
        return VFU_PUMP_EOF;
    if (error < 0)
        self->error = (int)-error;
    if (error < 0 || vfu_stream_broken(s))
        flags |= VFU_PUMP_BROKEN;
    if (vfu_stream_wants_read(s))
        flags |= VFU_PUMP_READ;
    return full ? flags | VFU_PUMP_WRITE : flags;
}

static int send_out(PumpObject *self)
{
    int full = vfu_pump_flush(&self->stream->stream, self->fd);

    return status(self, full < 0 ? full : 0, full == 1);
}

static int receive_once(PumpObject *self, long *got)
{
    vfu_stream *s = &self->stream->stream;
    bool more;
    long next;

    *got = vfu_pump_receive(s, self->fd, &more);
    if (*got == 0)
        return VFU_PUMP_EOF;
    if (*got == -EAGAIN)
        return status(self, 0, false);
    if (*got < 0)
        return status(self, *got, false);
    vfu_stream_process(s);
    for (int i = 0; more && i < BURST && vfu_stream_wants_read(s); i++) {
        next = vfu_pump_receive(s, self->fd, &more); /* an end or an error is met again by who reads next */
        if (next <= 0)
            break;
        vfu_stream_process(s);
    }
    return send_out(self);
}

/* Polls without the GIL until `spin_ns` have gone by without a message, or something else has to be waited for. */
static int spin(PumpObject *self, uint64_t spin_ns)
{
    uint64_t deadline = now_ns() + spin_ns;
    int flags;
    long got;

    do {
        if (!released)
            released = PyEval_SaveThread();
        flags = receive_once(self, &got);
        if (got > 0)
            deadline = now_ns() + spin_ns;
    } while (flags == VFU_PUMP_READ && (got > 0 || now_ns() < deadline));
    need_gil();
    return flags;
}

static PyObject *pump_run(PumpObject *self, PyObject *args)
{
    StreamObject *outer = serving, *stream = self->stream;
    unsigned int spin_us = 0;
    int flags;
    long got;

    if (!PyArg_ParseTuple(args, "|I:run", &spin_us))
        return NULL;
    if (stream->closed || stream->stream.processing)
        return PyErr_Format(LocalError, "the stream is closed, or being served already");
    Py_INCREF(stream);
    serving = stream;
    if (!vfu_stream_wants_read(&stream->stream))
        flags = send_out(self);
    else
        flags = spin_us ? spin(self, (uint64_t)spin_us * 1000) : receive_once(self, &got);
    serving = outer;
    if (stream->closed)
        vfu_stream_free(&stream->stream);
    Py_DECREF(stream);
    return PyLong_FromLong(flags);
}

static PyObject *pump_flush(PumpObject *self, PyObject *unused)
{
    StreamObject *outer = serving, *stream = self->stream;
    int flags;

    (void)unused;
    if (stream->closed)
        return PyErr_Format(LocalError, "the stream is closed");
    if (stream->stream.processing) /* the batch in hand sends it */
        return PyLong_FromLong(VFU_PUMP_READ);
    Py_INCREF(stream);
    serving = stream;
    flags = send_out(self);
    serving = outer;
    if (stream->closed)
        vfu_stream_free(&stream->stream);
    Py_DECREF(stream);
    return PyLong_FromLong(flags);
}

static PyObject *get_error(PumpObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLong(self->error);
}

static PyMethodDef methods[] = {
    {"run", (PyCFunction)pump_run, METH_VARARGS, "run(spin_us=0): one recvmsg, the replies in one sendmsg."},
    {"flush", (PyCFunction)pump_flush, METH_NOARGS, "Sends what is queued."},
    {0},
};

static PyGetSetDef getset[] = {
    {"error", (getter)get_error, NULL, "errno of a failed socket, 0 if it has not failed", NULL},
    {0},
};

PyTypeObject PumpType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vfuserver._core.Pump",
    .tp_doc = "recvmsg -> Stream.feed -> sendmsg on a non-blocking socket.",
    .tp_basicsize = sizeof(PumpObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)pump_init,
    .tp_traverse = (traverseproc)pump_traverse,
    .tp_clear = (inquiry)pump_clear,
    .tp_dealloc = (destructor)pump_dealloc,
    .tp_methods = methods,
    .tp_getset = getset,
};
