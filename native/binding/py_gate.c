#include "binding.h"

static int gate_init(GateObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"word", NULL};
    unsigned int word = VFU_GATE_RUNNING;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|I:Gate", names, &word))
        return -1;
    atomic_store(&self->gate.word, word);
    return 0;
}

static int bits_of(PyObject *object, uint32_t *bits)
{
    unsigned long value = PyLong_AsUnsignedLong(object);

    if (value == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    *bits = (uint32_t)value;
    return 0;
}

static PyObject *gate_set(GateObject *self, PyObject *object)
{
    uint32_t bits;

    if (bits_of(object, &bits) < 0)
        return NULL;
    atomic_fetch_or(&self->gate.word, bits);
    Py_RETURN_NONE;
}

static PyObject *gate_clear(GateObject *self, PyObject *object)
{
    uint32_t bits;

    if (bits_of(object, &bits) < 0)
        return NULL;
    atomic_fetch_and(&self->gate.word, ~bits);
    Py_RETURN_NONE;
}

static PyObject *gate_shows(GateObject *self, PyObject *const *args, Py_ssize_t count)
{
    uint32_t mask, bits;

    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "shows takes a mask and bits");
    if (bits_of(args[0], &mask) < 0 || bits_of(args[1], &bits) < 0)
        return NULL;
    return PyBool_FromLong((atomic_load(&self->gate.word) & mask) == bits);
}

static PyObject *get_word(GateObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLong(atomic_load(&self->gate.word));
}

static int set_word(GateObject *self, PyObject *value, void *closure)
{
    uint32_t bits;

    (void)closure;
    if (!value || bits_of(value, &bits) < 0)
        return -1;
    atomic_store(&self->gate.word, bits);
    return 0;
}

static PyObject *get_refused(GateObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(atomic_load(&self->gate.refused));
}

static int set_refused(GateObject *self, PyObject *value, void *closure)
{
    unsigned long long count = value ? PyLong_AsUnsignedLongLong(value) : 0;

    (void)closure;
    if (PyErr_Occurred())
        return -1;
    atomic_store(&self->gate.refused, count);
    return 0;
}

static PyMethodDef methods[] = {
    {"set", (PyCFunction)gate_set, METH_O, "set(bits): these bits become 1."},
    {"clear", (PyCFunction)gate_clear, METH_O, "clear(bits): these bits become 0."},
    {"shows", (PyCFunction)(void (*)(void))gate_shows, METH_FASTCALL, "shows(mask, bits): word & mask == bits."},
    {0},
};

static PyGetSetDef getset[] = {
    {"word", (getter)get_word, (setter)set_word, "all bits", NULL},
    {"refused", (getter)get_refused, (setter)set_refused, "accesses refused because a bit was clear", NULL},
    {0},
};

PyTypeObject GateType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vfuserver._core.Gate",
    .tp_doc = "One device's gate word.",
    .tp_basicsize = sizeof(GateObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)gate_init,
    .tp_methods = methods,
    .tp_getset = getset,
};
