#include "binding.h"

#include <errno.h>
#include <structmember.h>
#include <time.h>

#include "../core/doze.h"
#include "../core/pump.h"
#include "../core/spin.h"

/* Messages with descriptors come one by one: so many are taken in before their replies leave. */
enum { BURST = 32 };

_Thread_local PyThreadState *released;
_Thread_local bool loop_wanted;

typedef struct {
    PyObject_HEAD
    StreamObject *stream;
    int fd, error, stays; /* stays: only stay() waits */
    bool large;       /* has been told */
    uint64_t rested;  /* how many messages had come, when it was last asked to rest */
    vfu_spin spin;
    vfu_doze doze;
    char quiet; /* step() tells nothing of a turn after which the next message is what is waited for */
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

/* Serves what one recvmsg has brought, or says what it meant that it brought nothing. */
static int take_in(PumpObject *self, long got, bool more)
{
    vfu_stream *s = &self->stream->stream;
    long next;

    if (got == 0)
        return VFU_PUMP_EOF;
    if (got == -EAGAIN) /* what is still queued waits for the socket */
        return send_out(self);
    if (got < 0)
        return status(self, got, false);
    vfu_stream_process(s);
    for (int i = 0; more && i < BURST && vfu_stream_wants_read(s); i++) {
        next = vfu_pump_receive(s, self->fd, &more); /* an end or an error is met again by who reads next */
        if (next <= 0)
            break;
        vfu_stream_process(s);
    }
    return send_out(self);
}

static int receive_once(PumpObject *self, long *got)
{
    bool more = false;

    *got = vfu_pump_receive(&self->stream->stream, self->fd, &more);
    return take_in(self, *got, more);
}

/* True if the next message can be waited for: nobody has asked for the loop. */
static bool may_wait(const PumpObject *self, int flags)
{
    return flags == VFU_PUMP_READ && !loop_wanted && !self->stream->closed;
}

static bool may_stay(const PumpObject *self, int flags) { return may_wait(self, flags) && vfu_spin_pays(&self->spin); }

static bool command_waits(const PumpObject *self) { return self->stream->stream.held.kind != VFU_HELD_NOTHING; }

static bool may_spin(const PumpObject *self, int flags) { return may_stay(self, flags) && !command_waits(self); }

/* One turn, which goes on while the next message comes soon. It is waited for, and served, without the GIL, which only
 * hooks and commands take. */
static int turn(PumpObject *self, uint64_t unused)
{
    bool more = false;
    long got;
    int flags;

    (void)unused;
    loop_wanted = false;
    flags = receive_once(self, &got);
    if (got <= 0 || !self->spin.limit || self->stays)
        return flags;
    vfu_spin_begin(&self->spin);
    while (may_spin(self, flags)) {
        if (!released)
            released = PyEval_SaveThread();
        got = vfu_spin_receive(&self->spin, &self->stream->stream, self->fd, &more);
        if (got != -EAGAIN)
            flags = take_in(self, got, more);
        else if (!vfu_doze_can(&self->doze) || !vfu_spin_again(&self->spin))
            break;
    }
    return flags;
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
    return flags;
}

/* One turn of a thread that has nothing else to do: as one that polls, until the limit is over or the loop is wanted. */
static int stay(PumpObject *self, uint64_t unused)
{
    int flags = VFU_PUMP_READ;
    bool more = false;
    long got;

    (void)unused;
    loop_wanted = false;
    vfu_spin_stay(&self->spin);
    while (may_stay(self, flags)) {
        if (!released)
            released = PyEval_SaveThread();
        got = vfu_spin_receive(&self->spin, &self->stream->stream, self->fd, &more);
        flags = take_in(self, got, more);
        if (got == -EAGAIN)
            break;
    }
    return flags;
}

/* Flags as Python gets them: with what it is told once. */
static int also_large(PumpObject *self, int flags)
{
    const vfu_stream *s = &self->stream->stream;

    if (self->large || !(vfu_buffer_large(&s->rx) || vfu_buffer_large(&s->tx)))
        return flags;
    self->large = true;
    self->rested = s->received;
    return flags | VFU_PUMP_LARGE;
}

static PyObject *pump_rest(PumpObject *self, PyObject *unused)
{
    vfu_stream *s = &self->stream->stream;
    bool quiet = s->received == self->rested && !s->processing;

    (void)unused;
    self->rested = s->received;
    if (quiet) {
        vfu_buffer_rest(&s->rx);
        vfu_buffer_rest(&s->tx);
    }
    self->large = vfu_buffer_large(&s->rx) || vfu_buffer_large(&s->tx);
    return PyBool_FromLong(!self->large);
}

/* Something is done with the stream, with the GIL or without. */
static int served(PumpObject *self, int (*move)(PumpObject *, uint64_t), uint64_t spin_ns)
{
    StreamObject *outer = serving, *stream = self->stream;
    int flags;

    serving = stream;
    flags = move && vfu_stream_wants_read(&stream->stream) ? move(self, spin_ns) : send_out(self);
    serving = outer;
    if (stream->closed)
        vfu_stream_free(&stream->stream);
    return also_large(self, flags);
}

static bool can_be_served(const PumpObject *self) { return !self->stream->closed && !self->stream->stream.processing; }

/* From Python and for it: `self` is the caller's, and has the stream. */
static PyObject *serve(PumpObject *self, int (*move)(PumpObject *, uint64_t), uint64_t spin_ns)
{
    int flags;

    if (!can_be_served(self))
        return PyErr_Format(LocalError, "the stream is closed, or being served already");
    flags = served(self, move, spin_ns);
    need_gil();
    return PyLong_FromLong(flags);
}

static PyObject *pump_run(PumpObject *self, PyObject *args)
{
    unsigned int spin_us = 0;

    if (!PyArg_ParseTuple(args, "|I:run", &spin_us))
        return NULL;
    return serve(self, spin_us ? spin : turn, (uint64_t)spin_us * 1000);
}

static PyObject *pump_stay(PumpObject *self, PyObject *unused)
{
    (void)unused;
    return serve(self, stay, 0);
}

/* True for a turn that Python need not know of: the next message is waited for, as before. */
static bool usual(const PumpObject *self, int flags) { return self->quiet && flags == VFU_PUMP_READ; }

/* True if it has been waited for in the loop's place, and is there: no command waits, nobody has asked for the loop. */
static bool dozed(PumpObject *self, int flags)
{
    if (!self->quiet || !may_wait(self, flags) || vfu_spin_pays(&self->spin) || command_waits(self))
        return false;
    if (!released)
        released = PyEval_SaveThread();
    return vfu_doze_sleep(&self->doze, self->fd);
}

/* A loop's callback. What is usual costs no Python. */
static PyObject *pump_step(PumpObject *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *number, *answer;
    int flags;

    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "step(run, told) takes 2 arguments, not %zd", count);
    if (!self->quiet || !can_be_served(self))
        return PyObject_CallNoArgs(args[0]);
    vfu_doze_begin(&self->doze);
    do
        flags = served(self, turn, 0);
    while (dozed(self, flags));
    vfu_doze_end(&self->doze);
    need_gil();
    if (usual(self, flags))
        Py_RETURN_NONE;
    number = PyLong_FromLong(flags);
    answer = number ? PyObject_CallOneArg(args[1], number) : NULL;
    Py_XDECREF(number);
    return answer;
}

static PyObject *pump_flush(PumpObject *self, PyObject *unused)
{
    (void)unused;
    if (self->stream->closed)
        return PyErr_Format(LocalError, "the stream is closed");
    if (self->stream->stream.processing) /* the batch in hand sends it */
        return PyLong_FromLong(VFU_PUMP_READ);
    return PyLong_FromLong(served(self, NULL, 0));
}

static PyObject *pump_doze(PumpObject *self, PyObject *args)
{
    PyObject *capsule;
    const char *file;
    void *loop;

    if (!PyArg_ParseTuple(args, "sO:doze", &file, &capsule))
        return NULL;
    loop = PyCapsule_GetPointer(capsule, NULL);
    if (!loop)
        return NULL;
    if (!vfu_doze_allow(&self->doze, loop, file))
        return PyErr_Format(LocalError, "%s does not have a libuv that is known here", file);
    Py_RETURN_NONE;
}

static PyObject *pump_poll(PumpObject *self, PyObject *args)
{
    unsigned int limit_us;
    int loop;

    if (!PyArg_ParseTuple(args, "Ii|p:poll", &limit_us, &loop, &self->stays))
        return NULL;
    self->spin = (vfu_spin){.limit = (uint64_t)limit_us * 1000, .loop = loop};
    Py_RETURN_NONE;
}

static PyObject *get_polling(PumpObject *self, void *closure)
{
    const vfu_spin *p = &self->spin;

    (void)closure;
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:K,s:d,s:K,s:K}", "limit_us", p->limit / 1000, "window_us", p->window / 1000,
                         "spins", p->spins, "hits", p->hits, "yields", p->yields, "seconds", (double)p->spent / 1e9,
                         "sleeps", self->doze.sleeps, "woken", self->doze.served);
}

static PyObject *get_error(PumpObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLong(self->error);
}

static PyMethodDef methods[] = {
    {"run", (PyCFunction)pump_run, METH_VARARGS, "run(spin_us=0): one recvmsg, the replies in one sendmsg."},
    {"stay", (PyCFunction)pump_stay, METH_NOARGS, "stay(): run() as long as poll() allows, without the GIL."},
    {"step", (PyCFunction)(void (*)(void))pump_step, METH_FASTCALL, "step(run, told): run(), for a loop's callback."},
    {"poll", (PyCFunction)pump_poll, METH_VARARGS, "poll(limit_us, loop_fd, stays=False): run(), or stay(), waits for what comes soon."},
    {"doze", (PyCFunction)pump_doze, METH_VARARGS, "doze(file, uv_loop): step() may sleep in an uvloop's place."},
    {"rest", (PyCFunction)pump_rest, METH_NOARGS, "rest(): gives memory back if nothing has come since."},
    {"flush", (PyCFunction)pump_flush, METH_NOARGS, "Sends what is queued."},
    {0},
};

static PyMemberDef members[] = {
    {"quiet", T_BOOL, offsetof(PumpObject, quiet), 0, "step() tells nothing of a usual turn"},
    {0},
};

static PyGetSetDef getset[] = {
    {"error", (getter)get_error, NULL, "errno of a failed socket, 0 if it has not failed", NULL},
    {"polling", (getter)get_polling, NULL, "what polling does and costs", NULL},
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
    .tp_members = members,
    .tp_getset = getset,
};
