/* vfuserver._core: the compiled core as Python sees it. The interface is vfuserver/_core.pyi. */
#include "py_ioas.h"
#include "py_stream.h"

#include <errno.h>
#include <stdarg.h>

#include "../core/event.h"
#include "../core/pump.h"
#include "../core/wire.h"

PyObject *CommandError, *DmaError, *PeerError, *LocalError, *DeclarationError;
_Thread_local PyObject *stray;

PyObject *raise_errno(PyObject *class, int error, const char *format, ...)
{
    char text[256]; /* PyUnicode_FromFormat knows no %#llx */
    PyObject *exception;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    exception = PyObject_CallFunction(class, "is", error, text);
    if (exception) {
        PyErr_SetObject(class, exception);
        Py_DECREF(exception);
    }
    return NULL;
}

int take_exception(PyObject **exception)
{
    PyObject *type, *traceback, *number;
    long error = 0;

    PyErr_Fetch(&type, exception, &traceback);
    PyErr_NormalizeException(&type, exception, &traceback);
    if (traceback)
        PyException_SetTraceback(*exception, traceback);
    if (PyErr_GivenExceptionMatches(*exception, CommandError)) {
        number = PyObject_GetAttrString(*exception, "errno");
        error = number ? PyLong_AsLong(number) : EIO;
        Py_XDECREF(number);
        PyErr_Clear();
        if (error <= 0 || error > 4095)
            error = EIO;
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return (int)error;
}

static PyObject *core_signal(PyObject *module, PyObject *object)
{
    int fd = PyObject_AsFileDescriptor(object), result;

    (void)module;
    if (fd < 0)
        return NULL;
    result = vfu_event_signal(fd);
    if (result < 0) {
        errno = -result;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBool_FromLong(result);
}

static PyObject *core_is_eventfd(PyObject *module, PyObject *object)
{
    int fd = PyObject_AsFileDescriptor(object);

    (void)module;
    if (fd < 0)
        return NULL;
    return PyBool_FromLong(vfu_event_is(fd));
}

static PyObject *core_want_loop(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    loop_wanted = true;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"signal", core_signal, METH_O, "signal(fd): adds 1 to an eventfd, never blocks; False if it was full."},
    {"is_eventfd", core_is_eventfd, METH_O, "is_eventfd(fd)"},
    {"want_loop", core_want_loop, METH_NOARGS, "want_loop(): the loop of this thread has something to do at once."},
    {"remap", core_remap, METH_VARARGS, "remap(buffer, fd): the memory becomes that of the file."},
    {"crc32", core_crc32, METH_VARARGS, "crc32(data, value=0): as zlib.crc32"},
    {"copy_crc32", core_copy_crc32, METH_VARARGS, "copy_crc32(into, data, value=0): copies data and returns its CRC"},
    {"copy_far", core_copy_far, METH_VARARGS, "copy_far(into, data): for what nobody looks at soon"},
    {"snapshot", core_snapshot, METH_VARARGS, "snapshot(data, value=0) -> (a copy, its CRC)"},
    {"sources", core_sources, METH_VARARGS, "sources(most=all) -> one dictionary for every file that memory lies in"},
    {0},
};

static const struct {
    const char *name;
    long value;
} numbers[] = {
    {"COUNT", VFU_ROW_COUNT},           {"STRICT", VFU_ROW_STRICT},       {"SPLIT_HIGH", VFU_ROW_SPLIT_HIGH},
    {"SPLIT_LOW", VFU_ROW_SPLIT_LOW},   {"MEMORY", VFU_ROW_MEMORY},       {"READ_HOOK", VFU_ROW_READ_HOOK},
    {"WRITE_HOOK", VFU_ROW_WRITE_HOOK}, {"READ_ONLY", VFU_ROW_READ_ONLY}, {"LATEST", VFU_ROW_LATEST},
    {"ALL", VFU_ROW_ALL},               {"PROT_READ", VFU_PROT_READ},
    {"PROT_WRITE", VFU_PROT_WRITE},     {"ACCESS_MESSAGES", VFU_ACCESS_MESSAGES},
    {"ACCESS_MAPPED", VFU_ACCESS_MAPPED}, {"ACCESS_FILE", VFU_ACCESS_FILE},
    {"TRUSTED", VFU_TRUSTED},           {"UNPROVEN", VFU_UNPROVEN},       {"REFUSED", VFU_REFUSED},
    {"LOAD", VFU_LOAD},                 {"STORE", VFU_STORE},             {"SWAP", VFU_SWAP},
    {"ADD", VFU_ADD},                   {"OR", VFU_OR},                   {"AND", VFU_AND},
    {"COMPARE", VFU_COMPARE},
}, gate_numbers[] = {
    {"IO", VFU_GATE_IO}, {"MEMORY", VFU_GATE_MEMORY}, {"MASTER", VFU_GATE_MASTER}, {"RUNNING", VFU_GATE_RUNNING},
    {"QUIET", VFU_GATE_QUIET},
}, pump_numbers[] = {
    {"READ", VFU_PUMP_READ}, {"WRITE", VFU_PUMP_WRITE}, {"EOF", VFU_PUMP_EOF}, {"BROKEN", VFU_PUMP_BROKEN},
    {"LARGE", VFU_PUMP_LARGE},
};

static int add_type_number(PyTypeObject *type, const char *name, long value)
{
    PyObject *number = PyLong_FromLong(value);
    int result = number ? PyDict_SetItemString(type->tp_dict, name, number) : -1;

    Py_XDECREF(number);
    return result;
}

static int add_numbers(PyObject *module)
{
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        if (PyModule_AddIntConstant(module, numbers[i].name, numbers[i].value) < 0)
            return -1;
    for (size_t i = 0; i < sizeof(gate_numbers) / sizeof(*gate_numbers); i++)
        if (add_type_number(&GateType, gate_numbers[i].name, gate_numbers[i].value) < 0)
            return -1;
    for (size_t i = 0; i < sizeof(pump_numbers) / sizeof(*pump_numbers); i++)
        if (add_type_number(&PumpType, pump_numbers[i].name, pump_numbers[i].value) < 0)
            return -1;
    return 0;
}

static int import_errors(void)
{
    static const struct {
        const char *name;
        PyObject **slot;
    } wanted[] = {
        {"CommandError", &CommandError}, {"DmaError", &DmaError},
        {"PeerError", &PeerError},       {"LocalError", &LocalError},
        {"DeclarationError", &DeclarationError},
    };
    PyObject *errors = PyImport_ImportModule("vfuserver.errors");

    for (size_t i = 0; errors && i < sizeof(wanted) / sizeof(*wanted); i++) {
        *wanted[i].slot = PyObject_GetAttrString(errors, wanted[i].name);
        if (!*wanted[i].slot)
            Py_CLEAR(errors);
    }
    Py_XDECREF(errors);
    return errors ? 0 : -1;
}

static int add_types(PyObject *module)
{
    PyTypeObject *const types[] = {&GateType, &LayoutType, &TableType, &IoasType, &PinType, &StreamType, &PumpType,
                                   &LedgerType, &BodyType};

    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
        if (PyModule_AddType(module, types[i]) < 0)
            return -1;
    return 0;
}

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "vfuserver._core",
    .m_doc = "The compiled core: framing, register tables, the IOVA table, eventfds.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__core(void)
{
    PyObject *module = PyModule_Create(&definition), *structs;

    if (!module)
        return NULL;
    structs = structs_dict();
    if (import_errors() < 0 || add_types(module) < 0 || add_ledger_report(module) < 0 || add_numbers(module) < 0 || !structs ||
        PyModule_AddObjectRef(module, "STRUCTS", structs) < 0)
        Py_CLEAR(module);
    Py_XDECREF(structs);
    return module;
}
