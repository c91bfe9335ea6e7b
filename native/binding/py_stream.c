#include "py_stream.h"

#include "py_ioas.h"

#include <errno.h>
#include <unistd.h>

/* -- life ----------------------------------------------------------------------------------------------------------- */

static int stream_init(StreamObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"command", "reply", "max_transfer", "on_later", NULL};
    PyObject *command, *reply, *on_later = Py_None;
    unsigned int max_transfer = 1048576;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$IO:Stream", names, &command, &reply, &max_transfer, &on_later))
        return -1;
    if (self->command) {
        PyErr_SetString(LocalError, "a stream is initialised once");
        return -1;
    }
    self->command = Py_NewRef(command);
    self->reply = Py_NewRef(reply);
    self->on_later = on_later == Py_None ? NULL : Py_NewRef(on_later);
    self->regions = PyTuple_New(0);
    vfu_stream_init(&self->stream, max_transfer, &stream_ops, self);
    return self->regions ? 0 : -1;
}

static int stream_traverse(StreamObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->command);
    Py_VISIT(self->reply);
    Py_VISIT(self->on_later);
    Py_VISIT(self->on_hook_error);
    Py_VISIT(self->regions);
    Py_VISIT(self->later);
    return 0;
}

static void drop_stream(StreamObject *self)
{
    vfu_stream_break(&self->stream, "closed");
    if (!self->stream.processing) {
        vfu_stream_free(&self->stream);
        Py_XSETREF(self->regions, PyTuple_New(0));
        Py_CLEAR(self->ledger);
    }
    Py_CLEAR(self->later);
    self->stream.dma = NULL;
    Py_CLEAR(self->dma);
    self->closed = true;
}

static int stream_clear(StreamObject *self)
{
    drop_stream(self);
    Py_CLEAR(self->command);
    Py_CLEAR(self->reply);
    Py_CLEAR(self->on_later);
    Py_CLEAR(self->on_hook_error);
    Py_CLEAR(self->regions);
    Py_CLEAR(self->ledger);
    return 0;
}

static void stream_dealloc(StreamObject *self)
{
    PyObject_GC_UnTrack(self);
    stream_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* -- methods -------------------------------------------------------------------------------------------------------- */

static PyObject *joined(const struct iovec *part, size_t parts)
{
    size_t length = 0, at = 0;
    PyObject *bytes;

    for (size_t i = 0; i < parts; i++)
        length += part[i].iov_len;
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    for (size_t i = 0; bytes && i < parts; at += part[i++].iov_len)
        memcpy(PyBytes_AS_STRING(bytes) + at, part[i].iov_base, part[i].iov_len);
    return bytes;
}

/* Takes what one sendmsg would carry; its descriptors pass to the caller. */
static PyObject *take_chunk(vfu_stream *s)
{
    const vfu_carried *carried;
    struct iovec part[VFU_CHUNK_PARTS];
    int fds[VFU_MAX_FDS];
    size_t count, parts = vfu_stream_chunk(s, part, &carried, &count), length = 0;
    PyObject *list = NULL, *tuple = NULL, *item = NULL, *bytes = joined(part, parts);
    size_t taken = count ? vfu_fds_take(&s->tx_fds, vfu_buffer_position(&s->tx) + 1, fds, VFU_MAX_FDS) : 0;

    list = bytes ? fd_list(fds, taken) : NULL;
    tuple = list ? PyList_AsTuple(list) : NULL;
    if (tuple)
        item = PyTuple_Pack(2, bytes, tuple);
    Py_XDECREF(bytes);
    Py_XDECREF(list);
    Py_XDECREF(tuple);
    if (!item)
        while (taken--)
            close(fds[taken]);
    while (parts--)
        length += part[parts].iov_len;
    vfu_stream_sent(s, length);
    return item;
}

static PyObject *take_all(StreamObject *self)
{
    vfu_stream *s = &self->stream;
    PyObject *list = PyList_New(0);

    while (list && vfu_stream_queued(s)) {
        PyObject *item = take_chunk(s);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
        if (!vfu_stream_queued(s) && vfu_buffer_length(&s->rx) && vfu_stream_ready(s) && !self->closed) {
            StreamObject *outer = serving;
            serving = self;
            vfu_stream_process(s);
            serving = outer;
        }
    }
    return list;
}

static int take_input(StreamObject *self, const Py_buffer *data, PyObject *fds)
{
    PyObject *list = fds ? PySequence_Fast(fds, "fds must be a sequence") : PyList_New(0);
    Py_ssize_t count = list ? PySequence_Fast_GET_SIZE(list) : 0;
    int *numbers = list ? PyMem_Calloc((size_t)count + 1, sizeof(int)) : NULL;
    size_t room;
    uint8_t *space;

    for (Py_ssize_t i = 0; numbers && i < count; i++)
        numbers[i] = (int)PyLong_AsLong(PySequence_Fast_GET_ITEM(list, i));
    Py_XDECREF(list);
    if (!numbers || PyErr_Occurred()) {
        PyMem_Free(numbers);
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        return -1;
    }
    space = vfu_stream_space(&self->stream, (size_t)data->len, &room);
    if (room < (size_t)data->len || vfu_stream_broken(&self->stream)) {
        while (count--)
            close(numbers[count]);
        if (!vfu_stream_broken(&self->stream))
            vfu_stream_break(&self->stream, "no memory for %zd bytes", data->len);
    } else {
        if (data->len)
            memcpy(space, data->buf, (size_t)data->len);
        vfu_stream_received(&self->stream, (size_t)data->len, numbers, (size_t)count);
    }
    PyMem_Free(numbers);
    return 0;
}

static PyObject *stream_feed(StreamObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "fds", NULL};
    PyObject *fds = NULL, *output = NULL;
    StreamObject *outer = serving;
    Py_buffer data;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|O:feed", names, &data, &fds))
        return NULL;
    if (self->stream.processing) {
        PyErr_SetString(LocalError, "a stream cannot be fed from inside one of its own callbacks");
    } else if (take_input(self, &data, fds) == 0) {
        serving = self;
        vfu_stream_process(&self->stream);
        serving = outer;
        if (self->closed)
            vfu_stream_free(&self->stream);
        output = take_all(self);
    }
    PyBuffer_Release(&data);
    return output;
}

static PyObject *stream_take(StreamObject *self, PyObject *unused)
{
    (void)unused;
    return take_all(self);
}

static PyObject *stream_send(StreamObject *self, PyObject *args)
{
    PyObject *message, *fds = NULL;
    int numbers[VFU_MAX_FDS];
    Py_ssize_t count = 0;
    Parts parts;

    if (!PyArg_ParseTuple(args, "O|O:send", &message, &fds))
        return NULL;
    if (self->closed) {
        PyErr_SetString(LocalError, "the stream is closed");
        return NULL;
    }
    if (fds && self->ledger && PyObject_IsTrue(fds)) {
        PyErr_SetString(LocalError, "descriptors of a message of our own would not survive as its ledger promises");
        return NULL;
    }
    if (fds && (count = duplicate_fds(fds, numbers)) < 0)
        return NULL;
    if (parts_from(message, !count, &parts) < 0) {
        vfu_fds_close(numbers, (size_t)count);
        return NULL;
    }
    if (parts.parts && parts.part->length >= sizeof(vfu_header)) {
        vfu_stream_send(&self->stream, parts.part, parts.parts, numbers, (size_t)count);
        release_parts(&parts);
        Py_RETURN_NONE;
    }
    vfu_fds_close(numbers, (size_t)count);
    vfu_stream_repay(&self->stream, parts.part, parts.parts);
    release_parts(&parts);
    PyErr_SetString(PyExc_ValueError, "a message has a header of 16 bytes, in one piece");
    return NULL;
}

static void complete_value(StreamObject *self, PyObject *result)
{
    unsigned long long value = PyLong_AsUnsignedLongLong(result);
    const vfu_held *h = &self->stream.held;
    uint32_t region = h->kind == VFU_HELD_MULTI ? 0 : h->access.region;
    const vfu_region *r = region < self->stream.regions ? &self->stream.region[region] : NULL;
    uint64_t limit = UINT64_MAX;

    if (h->kind == VFU_HELD_ACCESS && r && r->table && h->cursor.row < r->table->layout->rows)
        limit = vfu_width_mask(r->table->layout->row[h->cursor.row].width);
    if (!PyErr_Occurred() && value <= limit && h->kind != VFU_HELD_COMMAND) {
        vfu_stream_complete_access(&self->stream, false, value);
        return;
    }
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "the answer must be 0 to %llu, not %R", (unsigned long long)limit, result);
    vfu_stream_complete_error(&self->stream, -stream_failed(self));
}

static void complete_with(StreamObject *self, PyObject *result)
{
    Answer answer;
    int kind;

    if (PyExceptionInstance_Check(result)) {
        PyErr_SetObject((PyObject *)Py_TYPE(result), result);
        kind = stream_failed(self);
        if (kind != VFU_BROKEN)
            vfu_stream_complete_error(&self->stream, -kind);
        return;
    }
    if (PyLong_Check(result)) {
        complete_value(self, result);
        return;
    }
    if (result == Py_None) {
        vfu_stream_complete_access(&self->stream, true, 0);
        return;
    }
    kind = parse_answer(result, &answer);
    if (kind == 0)
        PyErr_Format(LocalError, "a command cannot be answered with %R", result);
    if (kind <= 0) {
        vfu_stream_complete_error(&self->stream, -stream_failed(self));
        return;
    }
    vfu_stream_complete_command(&self->stream, answer.payload.part, answer.payload.parts, answer.fds, answer.count);
    release_parts(&answer.payload);
}

static PyObject *stream_complete(StreamObject *self, PyObject *result)
{
    StreamObject *outer = serving;

    if (self->stream.held.kind == VFU_HELD_NOTHING) {
        PyErr_SetString(LocalError, "no command waits for an answer");
        return NULL;
    }
    serving = self;
    complete_with(self, result);
    serving = outer;
    Py_RETURN_NONE;
}

static PyObject *stream_serve_dma(StreamObject *self, PyObject *args)
{
    unsigned long long page;
    IoasObject *ioas;

    if (!PyArg_ParseTuple(args, "O!K:serve_dma", &IoasType, &ioas, &page))
        return NULL;
    if (!page || page & (page - 1)) {
        PyErr_Format(PyExc_ValueError, "a page must be a power of two, not %llu", page);
        return NULL;
    }
    if (self->closed) {
        PyErr_SetString(LocalError, "the stream is closed");
        return NULL;
    }
    Py_XSETREF(self->dma, Py_NewRef(ioas));
    self->stream.dma = &ioas->ioas;
    self->stream.dma_page = page;
    Py_RETURN_NONE;
}

static PyObject *stream_close(StreamObject *self, PyObject *unused)
{
    (void)unused;
    drop_stream(self);
    Py_RETURN_NONE;
}

/* -- attributes ------------------------------------------------------------------------------------------------------ */

static int one_region(PyObject *item, vfu_region *region)
{
    unsigned long long size;
    PyObject *server;

    if (!PyArg_ParseTuple(item, "KO;a region is (size, Table, callable or None)", &size, &server))
        return -1;
    *region = (vfu_region){.size = size};
    if (PyObject_TypeCheck(server, &TableType)) {
        region->table = &((TableObject *)server)->table;
        if (region->table->layout->size < size) {
            PyErr_Format(LocalError, "a region of %llu bytes cannot be served by a table of %llu", size,
                         region->table->layout->size);
            return -1;
        }
    } else if (PyCallable_Check(server)) {
        region->external = true;
    } else if (server != Py_None) {
        PyErr_Format(PyExc_TypeError, "a region is served by a Table, a callable or None, not %R", server);
        return -1;
    }
    return 0;
}

static int set_regions(StreamObject *self, PyObject *value, void *closure)
{
    PyObject *tuple = value ? PySequence_Tuple(value) : NULL;
    vfu_region *regions;

    (void)closure;
    if (!tuple)
        return -1;
    regions = calloc((size_t)PyTuple_GET_SIZE(tuple) + 1, sizeof(*regions));
    if (!regions)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; !PyErr_Occurred() && i < PyTuple_GET_SIZE(tuple); i++)
        one_region(PyTuple_GET_ITEM(tuple, i), &regions[i]);
    if (!PyErr_Occurred() && self->stream.processing)
        PyErr_SetString(LocalError, "regions cannot change while a message is served");
    if (PyErr_Occurred()) {
        free(regions);
        Py_DECREF(tuple);
        return -1;
    }
    free(self->stream.region);
    self->stream.region = regions;
    self->stream.regions = (size_t)PyTuple_GET_SIZE(tuple);
    Py_XSETREF(self->regions, tuple);
    return 0;
}

static PyObject *get_regions(StreamObject *self, void *closure)
{
    (void)closure;
    return PySequence_List(self->regions);
}

static PyObject *get_bool(StreamObject *self, void *closure)
{
    switch ((intptr_t)closure) {
    case 0: return PyBool_FromLong(self->stream.negotiated);
    case 1: return PyBool_FromLong(self->stream.held.kind != VFU_HELD_NOTHING);
    case 2: return PyBool_FromLong(vfu_stream_wants_read(&self->stream));
    default: return PyBool_FromLong(self->stream.masked_errors);
    }
}

static int set_bool(StreamObject *self, PyObject *value, void *closure)
{
    int truth = value ? PyObject_IsTrue(value) : 0;

    if (truth < 0)
        return -1;
    *((intptr_t)closure == 0 ? &self->stream.negotiated : &self->stream.masked_errors) = truth;
    return 0;
}

static PyObject *get_number(StreamObject *self, void *closure)
{
    const vfu_stream *s = &self->stream;

    switch ((intptr_t)closure) {
    case 0: return PyLong_FromUnsignedLong(s->max_transfer);
    case 1: return PyLong_FromSize_t(s->send_limit);
    case 2: return PyLong_FromSize_t(vfu_stream_queued(s));
    case 3: return PyLong_FromUnsignedLongLong(s->received);
    case 5: return PyLong_FromSize_t(s->dma_transfers);
    default: return PyLong_FromUnsignedLong(s->hook_region);
    }
}

static int set_number(StreamObject *self, PyObject *value, void *closure)
{
    unsigned long number = value ? PyLong_AsUnsignedLong(value) : 0;

    if (PyErr_Occurred())
        return -1;
    if ((intptr_t)closure == 0)
        self->stream.max_transfer = (uint32_t)number;
    else if ((intptr_t)closure == 5)
        self->stream.dma_transfers = number;
    else
        self->stream.send_limit = number;
    return 0;
}

static PyObject *get_broken(StreamObject *self, void *closure)
{
    (void)closure;
    if (!vfu_stream_broken(&self->stream))
        Py_RETURN_NONE;
    return PyUnicode_DecodeUTF8(self->stream.broken, (Py_ssize_t)strlen(self->stream.broken), "replace");
}

static PyObject *get_hook_error(StreamObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(self->on_hook_error ? self->on_hook_error : Py_None);
}

static int set_hook_error(StreamObject *self, PyObject *value, void *closure)
{
    (void)closure;
    Py_XSETREF(self->on_hook_error, value && value != Py_None ? Py_NewRef(value) : NULL);
    return 0;
}

static PyMethodDef methods[] = {
    {"feed", (PyCFunction)(void (*)(void))stream_feed, METH_VARARGS | METH_KEYWORDS,
     "feed(data, fds=()): takes bytes and descriptors, returns what to send."},
    {"take", (PyCFunction)stream_take, METH_NOARGS, "What is queued to be sent."},
    {"send", (PyCFunction)stream_send, METH_VARARGS, "send(message, fds=()): queues a whole message."},
    {"complete", (PyCFunction)stream_complete, METH_O, "Answers the held command."},
    {"serve_dma", (PyCFunction)stream_serve_dma, METH_VARARGS,
     "serve_dma(ioas, page): plain DMA_MAP and DMA_UNMAP are done here."},
    {"carry", (PyCFunction)stream_carry, METH_NOARGS, "carry() -> (unread, descriptors, unsent, descriptors)"},
    {"adopt", (PyCFunction)stream_adopt, METH_VARARGS, "adopt(rx, rx_fds, tx, tx_fds): what carry() gave."},
    {"serve", (PyCFunction)stream_serve, METH_NOARGS, "Serves what was adopted."},
    {"use", (PyCFunction)stream_use, METH_O, "use(ledger): the bytes survive this process from now on."},
    {"close", (PyCFunction)stream_close, METH_NOARGS, "Drops everything."},
    {0},
};

static PyGetSetDef getset[] = {
    {"negotiated", (getter)get_bool, (setter)set_bool, "VERSION is through", (void *)0},
    {"masked_errors", (getter)get_bool, (setter)set_bool, "failed region accesses are answered", (void *)3},
    {"held", (getter)get_bool, NULL, "a Later is outstanding", (void *)1},
    {"wants_read", (getter)get_bool, NULL, "the socket should be read", (void *)2},
    {"max_transfer", (getter)get_number, (setter)set_number, "max_data_xfer_size", (void *)0},
    {"send_limit", (getter)get_number, (setter)set_number, "queued bytes above which nothing is served", (void *)1},
    {"queued", (getter)get_number, NULL, "bytes in the send queue", (void *)2},
    {"received", (getter)get_number, NULL, "messages taken in", (void *)3},
    {"dma_transfers", (getter)get_number, (setter)set_number, "transfers by messages under way", (void *)5},
    {"hook_region", (getter)get_number, NULL, "region of the access being served", (void *)4},
    {"regions", (getter)get_regions, (setter)set_regions, "(size, Table | callable | None) by index", NULL},
    {"broken", (getter)get_broken, NULL, "why the stream means nothing any more, or None", NULL},
    {"on_hook_error", (getter)get_hook_error, (setter)set_hook_error, "called with (region, offset, exception)", NULL},
    {0},
};

PyTypeObject StreamType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vfuserver._core.Stream",
    .tp_doc = "The one receiver of vfio-user messages, without I/O.",
    .tp_basicsize = sizeof(StreamObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)stream_init,
    .tp_traverse = (traverseproc)stream_traverse,
    .tp_clear = (inquiry)stream_clear,
    .tp_dealloc = (destructor)stream_dealloc,
    .tp_methods = methods,
    .tp_getset = getset,
};
