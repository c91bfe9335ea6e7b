/* What a stream asks of Python, and what Python answers. */
#include "py_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

_Thread_local StreamObject *serving;

/* -- what goes to the log ------------------------------------------------------------------------------------------ */

void stream_hook_error(StreamObject *self, int region, uint64_t offset, PyObject *exception)
{
    PyObject *result = NULL;

    if (self->on_hook_error)
        result = PyObject_CallFunction(self->on_hook_error, "iKO", region, (unsigned long long)offset, exception);
    else
        PyErr_Format(LocalError, "nobody handles %R", exception);
    if (!result)
        PyErr_WriteUnraisable((PyObject *)self);
    Py_XDECREF(result);
}

/* The raised exception as an answer: a CommandError's errno; a PeerError breaks the stream; else EIO and the log. */
int stream_failed_at(StreamObject *self, int region, uint64_t offset)
{
    PyObject *exception;
    int error = take_exception(&exception), answer = -error;

    if (!error && PyObject_IsInstance(exception, PeerError) == 1) {
        PyObject *text = PyObject_Str(exception);
        vfu_stream_break(&self->stream, "%s", text ? PyUnicode_AsUTF8(text) : "the peer broke the protocol");
        Py_XDECREF(text);
        answer = VFU_BROKEN;
    } else if (!error) {
        stream_hook_error(self, region, offset, exception);
        answer = -EIO;
    }
    Py_DECREF(exception);
    return answer;
}

int stream_failed(StreamObject *self)
{
    return stream_failed_at(self, -1, 0);
}

/* -- answers -------------------------------------------------------------------------------------------------------- */

/* Duplicates the descriptors of a reply; how many, or -1 with an exception and nothing kept. */
Py_ssize_t duplicate_fds(PyObject *sequence, int *fds)
{
    PyObject *list = PySequence_Fast(sequence, "descriptors must be a sequence");
    Py_ssize_t count = 0;

    if (!list)
        return -1;
    if (PySequence_Fast_GET_SIZE(list) > VFU_MAX_FDS)
        PyErr_Format(PyExc_ValueError, "at most %d descriptors fit in one message", VFU_MAX_FDS);
    for (; !PyErr_Occurred() && count < PySequence_Fast_GET_SIZE(list); count++) {
        long fd = PyLong_AsLong(PySequence_Fast_GET_ITEM(list, count));
        fds[count] = PyErr_Occurred() ? -1 : fcntl((int)fd, F_DUPFD_CLOEXEC, 3);
        if (fds[count] < 0) {
            if (!PyErr_Occurred())
                PyErr_SetFromErrno(PyExc_OSError);
            break;
        }
    }
    Py_DECREF(list);
    if (!PyErr_Occurred())
        return count;
    while (count-- > 0)
        close(fds[count]);
    return -1;
}

/* Fewer bytes than these are copied with less effort. */
enum { WORTH_LENDING = 16384 };

static int add_part(Parts *p, PyObject *object, bool may_lend)
{
    Py_buffer *buffer = &p->buffer[p->parts], *lender = NULL;

    if (PyObject_GetBuffer(object, buffer, PyBUF_SIMPLE) < 0)
        return -1;
    if (may_lend && buffer->len >= WORTH_LENDING && (lender = PyMem_Malloc(sizeof(*lender)))) {
        *lender = *buffer;
        buffer->obj = NULL;
    }
    p->part[p->parts++] = (vfu_payload_part){.bytes = buffer->buf, .length = (size_t)buffer->len, .lender = lender};
    return 0;
}

static void return_loan(void *owner, void *lender)
{
    (void)owner;
    need_gil();
    PyBuffer_Release(lender);
    PyMem_Free(lender);
}

int parts_from(PyObject *object, bool may_lend, Parts *p)
{
    Py_ssize_t count = PyList_Check(object) ? PyList_GET_SIZE(object) : 1;

    *p = (Parts){.part = &p->single, .buffer = &p->its_buffer};
    if (!PyList_Check(object))
        return add_part(p, object, may_lend);
    if (count > 1) {
        p->part = PyMem_Calloc((size_t)count, sizeof(*p->part));
        p->buffer = PyMem_Calloc((size_t)count, sizeof(*p->buffer));
    }
    if (!p->part || !p->buffer)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; !PyErr_Occurred() && i < count; i++)
        add_part(p, PyList_GET_ITEM(object, i), may_lend);
    if (!PyErr_Occurred())
        return 0;
    for (size_t i = 0; i < p->parts; i++)
        if (p->part[i].lender)
            return_loan(NULL, p->part[i].lender);
    release_parts(p);
    return -1;
}

void release_parts(Parts *p)
{
    for (size_t i = 0; i < p->parts; i++)
        PyBuffer_Release(&p->buffer[i]);
    if (p->part != &p->single) {
        PyMem_Free(p->part);
        PyMem_Free(p->buffer);
    }
    p->parts = 0;
}

int parse_answer(PyObject *result, Answer *answer)
{
    Py_ssize_t count;

    answer->count = 0;
    answer->payload = (Parts){0};
    if (result == Py_None)
        return 1;
    if (PyBytes_Check(result) || PyByteArray_Check(result) || PyMemoryView_Check(result) || PyList_Check(result))
        return parts_from(result, true, &answer->payload) < 0 ? -1 : 1;
    if (!PyTuple_Check(result) || PyTuple_GET_SIZE(result) != 2)
        return 0;
    if (parts_from(PyTuple_GET_ITEM(result, 0), false, &answer->payload) < 0)
        return -1;
    count = duplicate_fds(PyTuple_GET_ITEM(result, 1), answer->fds);
    if (count < 0) {
        release_parts(&answer->payload);
        return -1;
    }
    answer->count = (size_t)count;
    return 1;
}

PyObject *fd_list(const int *fds, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);

    for (size_t i = 0; list && i < count; i++) {
        PyObject *fd = PyLong_FromLong(fds[i]);
        if (!fd)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, fd);
    }
    return list;
}

/* -- what the core asks of Python ------------------------------------------------------------------------------------ */

/* State of a device is large: it is not copied to be looked at. A ledger's ring is never given away. */
static bool is_large_state(const StreamObject *self, const vfu_header *header, size_t length)
{
    bool reply = (header->flags & VFU_TYPE_MASK) == VFU_TYPE_REPLY;

    return !self->ledger && length >= WORTH_LENDING && header->command == (reply ? VFU_MIG_DATA_READ : VFU_MIG_DATA_WRITE);
}

/* Calls `callable(a, b, c, payload, fds)`; the payload is bytes, or a view of state. */
static PyObject *call_with_payload(StreamObject *self, PyObject *callable, const vfu_header *header, uint32_t third,
                                   const uint8_t *payload, size_t length, PyObject *fds)
{
    PyObject *body, *view, *result = NULL;

    if (!is_large_state(self, header, length))
        return PyObject_CallFunction(callable, "iiIy#O", header->command, header->id, third, payload,
                                     (Py_ssize_t)length, fds);
    body = body_of(payload, length);
    view = body ? PyMemoryView_FromObject(body) : NULL;
    if (view)
        result = PyObject_CallFunction(callable, "iiIOO", header->command, header->id, third, view, fds);
    Py_XDECREF(view);
    if (body)
        done_with_body(&self->stream, body);
    return result;
}

static int on_command(void *owner, const vfu_header *header, const uint8_t *payload, size_t length, int *fds, size_t count)
{
    StreamObject *self = owner;
    PyObject *list, *result = NULL;
    Answer answer;
    int kind, code = VFU_DONE;

    need_gil();
    loop_wanted = true;
    list = fd_list(fds, count);
    if (list)
        result = call_with_payload(self, self->command, header, header->flags, payload, length, list);
    Py_XDECREF(list);
    kind = result ? parse_answer(result, &answer) : -1;
    if (kind < 0) {
        code = stream_failed(self);
    } else if (kind == 0) {
        Py_XSETREF(self->later, Py_NewRef(result));
        code = VFU_LATER;
    } else {
        vfu_stream_reply_parts(&self->stream, header, answer.payload.part, answer.payload.parts, answer.fds,
                               answer.count);
        release_parts(&answer.payload);
    }
    Py_XDECREF(result);
    return code;
}

static void on_reply(void *owner, const vfu_header *header, const uint8_t *payload, size_t length, int *fds, size_t count)
{
    StreamObject *self = owner;
    int error = header->flags & VFU_ERROR ? (header->error ? (int)header->error : EIO) : 0;
    PyObject *list, *result = NULL;

    need_gil();
    loop_wanted = true;
    list = fd_list(fds, count);
    if (list)
        result = call_with_payload(self, self->reply, header, (uint32_t)error, payload, length, list);
    Py_XDECREF(list);
    if (!result)
        stream_failed(self);
    Py_XDECREF(result);
}

static int access_result(StreamObject *self, PyObject *result, vfu_cursor *cursor)
{
    if (cursor->write ? result == Py_None : PyBytes_Check(result) && PyBytes_GET_SIZE(result) == cursor->count) {
        if (!cursor->write)
            memcpy(cursor->data, PyBytes_AS_STRING(result), cursor->count);
        return VFU_DONE;
    }
    if (result == Py_None || PyBytes_Check(result)) {
        PyErr_Format(LocalError, "a region's access must return %u bytes for a read and None for a write, not %R",
                     cursor->count, result);
        return stream_failed_at(self, (int)self->stream.hook_region, cursor->offset);
    }
    Py_XSETREF(self->later, Py_NewRef(result));
    return VFU_LATER;
}

static int on_access(void *owner, uint32_t region, vfu_cursor *cursor)
{
    StreamObject *self = owner;
    PyObject *entry, *result;
    int answer;

    need_gil();
    entry = PyTuple_GET_ITEM(PyTuple_GET_ITEM(self->regions, region), 1);
    if (cursor->write)
        result = PyObject_CallFunction(entry, "KIy#", cursor->offset, cursor->count, cursor->data,
                                       (Py_ssize_t)cursor->count);
    else
        result = PyObject_CallFunction(entry, "KIO", cursor->offset, cursor->count, Py_None);
    if (!result) {
        answer = stream_failed_at(self, (int)region, cursor->offset);
        return answer == VFU_BROKEN ? -EIO : answer;
    }
    answer = access_result(self, result, cursor);
    Py_DECREF(result);
    return answer;
}

static void on_held(void *owner)
{
    StreamObject *self = owner;
    PyObject *later, *result;

    need_gil();
    later = self->later;
    self->later = NULL;
    if (!self->on_later) {
        vfu_stream_break(&self->stream, "a command is answered later, and nobody waits for it");
        Py_XDECREF(later);
        return;
    }
    result = PyObject_CallOneArg(self->on_later, later ? later : Py_None);
    if (!result)
        stream_failed(self);
    Py_XDECREF(result);
    Py_XDECREF(later);
}

const vfu_stream_ops stream_ops = {.command = on_command, .reply = on_reply, .access = on_access, .held = on_held,
                                   .repaid = return_loan};
