/* Ledger: what keeps a stream's bytes when this process is killed, and how a stream comes to use one. */
#include "py_stream.h"

#include <errno.h>

#include "../core/ledger.h"

typedef struct {
    PyObject_HEAD
    vfu_ledger ledger;
} LedgerObject;

static PyTypeObject *report_type;

static PyObject *ledger_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    LedgerObject *self = (LedgerObject *)type->tp_alloc(type, 0);

    (void)args, (void)kwargs;
    if (self)
        self->ledger.fd = -1;
    return (PyObject *)self;
}

static int ledger_init(LedgerObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"max_transfer", "fd", NULL};
    unsigned int max_transfer;
    int fd = -1, error;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I|i:Ledger", names, &max_transfer, &fd))
        return -1;
    if (self->ledger.fd >= 0) {
        PyErr_SetString(LocalError, "a ledger is initialised once");
        return -1;
    }
    error = vfu_ledger_open(&self->ledger, max_transfer, fd);
    if (error == -EINVAL && fd >= 0) {
        PyErr_Format(LocalError, "descriptor %d is no ledger of this version for max_data_xfer_size %u", fd,
                     max_transfer);
    } else if (error) {
        errno = -error;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return error ? -1 : 0;
}

static void ledger_dealloc(LedgerObject *self)
{
    vfu_ledger_close(&self->ledger);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *get_fd(LedgerObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLong(self->ledger.fd);
}

static PyGetSetDef getset[] = {
    {"fd", (getter)get_fd, NULL, "the memfd (lent)", NULL},
    {0},
};

PyTypeObject LedgerType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vfuserver._core.Ledger",
    .tp_doc = "A memfd in which the bytes of a stream survive the process.",
    .tp_basicsize = sizeof(LedgerObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = ledger_new,
    .tp_init = (initproc)ledger_init,
    .tp_dealloc = (destructor)ledger_dealloc,
    .tp_getset = getset,
};

/* -- Stream.use ------------------------------------------------------------------------------------------------------ */

static PyStructSequence_Field fields[] = {
    {"fresh", "nobody had used the ledger"},
    {"failed", "(command, message id, whether EIO is queued for it) of the command in hand, or None"},
    {"awaiting", "messages, or parts of them, that get EIO when their turn comes: their descriptors are lost"},
    {"unread", "bytes received and not served"},
    {"unsent", "bytes queued to be sent, that EIO included"},
    {"last_id", "the id of the last message of our own, or None"},
    {0},
};

static PyStructSequence_Desc report_desc = {"vfuserver._core.LedgerReport", "What a successor found.", fields, 6};

static PyObject *optional_id(int id)
{
    return id < 0 ? Py_NewRef(Py_None) : PyLong_FromLong(id);
}

static PyObject *report_object(const vfu_stream *s, const vfu_ledger_report *report)
{
    PyObject *result = PyStructSequence_New(report_type);
    const vfu_header *hand = &report->hand;
    PyObject *items[] = {
        PyBool_FromLong(report->fresh),
        hand->size ? Py_BuildValue("HHN", hand->command, hand->id, PyBool_FromLong(!(hand->flags & VFU_NO_REPLY)))
                   : Py_NewRef(Py_None),
        PyLong_FromSize_t(report->awaiting),
        PyLong_FromSize_t(vfu_buffer_length(&s->rx)),
        PyLong_FromSize_t(vfu_buffer_length(&s->tx)),
        optional_id(report->last_id),
    };

    for (int i = 0; i < 6; i++) {
        if (result)
            PyStructSequence_SET_ITEM(result, i, items[i]);
        else
            Py_XDECREF(items[i]);
    }
    if (result && PyErr_Occurred())
        Py_CLEAR(result);
    return result;
}

static const struct {
    int error;
    const char *text;
} refusals[] = {
    {EINVAL, "a ledger of a dead process is taken over by a stream that nothing has passed through"},
    {EBUSY, "messages with descriptors are queued: send them first"},
    {ENOBUFS, "more bytes are queued than the ledger has room for"},
    {EBADMSG, "the ledger makes no sense: the connection cannot go on"},
};

static PyObject *refused(int error)
{
    if (error == ENOMEM)
        return PyErr_NoMemory();
    for (size_t i = 0; i < sizeof(refusals) / sizeof(*refusals); i++)
        if (refusals[i].error == error)
            PyErr_SetString(LocalError, refusals[i].text);
    return NULL;
}

PyObject *stream_use(StreamObject *self, PyObject *object)
{
    vfu_ledger_report report;
    int error;

    if (!PyObject_TypeCheck(object, &LedgerType))
        return PyErr_Format(PyExc_TypeError, "a stream uses a Ledger, not %R", object);
    if (self->closed || self->ledger || self->stream.processing || self->stream.held.kind != VFU_HELD_NOTHING)
        return PyErr_Format(LocalError, "the stream is closed, holds a command, serves one, or has a ledger already");
    if (((LedgerObject *)object)->ledger.used || ((LedgerObject *)object)->ledger.fd < 0)
        return PyErr_Format(LocalError, "the ledger is another stream's");
    error = vfu_ledger_use(&self->stream, &((LedgerObject *)object)->ledger, &report);
    if (error)
        return refused(-error);
    self->ledger = Py_NewRef(object);
    return report_object(&self->stream, &report);
}

int add_ledger_report(PyObject *module)
{
    report_type = PyStructSequence_NewType(&report_desc);
    return report_type ? PyModule_AddType(module, report_type) : -1;
}
