/* sapi_embed.c: CPython's side of it; host.py, compiled in as host.inc, is the application's. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "sapi_embed.h"

static const char host_source[] =
#include "host.inc"
    ;

enum { OFF, CHANGING, READY, ENDED };

static atomic_int state = OFF;
static atomic_int running; /* requests; those that will find out that it is not READY too */
static sapi_embed_module slots;
static PyThreadState *initial; /* of the thread that started Python, NULL before */
static PyObject *host;         /* host.py as a module */
static _Thread_local bool started_here;
static _Thread_local char error_text[1024];

static int fail(int code, const char *text)
{
    snprintf(error_text, sizeof error_text, "%s", text);
    return code;
}

/* The exception that is set becomes the error's text. */
static int fail_raised(void)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *text = value ? PyObject_Str(value) : NULL;
    const char *said = text ? PyUnicode_AsUTF8(text) : NULL;
    snprintf(error_text, sizeof error_text, "%s: %s",
             value ? Py_TYPE(value)->tp_name : "Python", said ? said : "an error without a text");
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return SAPI_EMBED_FAILED;
}

/* Take the (code, text) that host.py's functions return, or NULL for an exception. */
static int outcome(PyObject *result)
{
    int code;
    const char *text;
    if (result == NULL || !PyArg_ParseTuple(result, "is", &code, &text))
        code = fail_raised();
    else
        fail(code, text);
    Py_XDECREF(result);
    return code;
}

/* -- the module _sapi_embed, through which host.py calls the program's slots ------------------- */

static PyObject *call_ub_write(PyObject *self, PyObject *arguments)
{
    (void)self;
    Py_buffer data;
    PyObject *address;
    if (!PyArg_ParseTuple(arguments, "Oy*", &address, &data)) return NULL;
    void *context = PyLong_AsVoidPtr(address);
    size_t length = (size_t)data.len, taken;
    Py_BEGIN_ALLOW_THREADS
    taken = slots.ub_write ? slots.ub_write(data.buf, length, context)
                           : fwrite(data.buf, 1, length, stdout);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    return PyBool_FromLong(taken == length);
}

static PyObject *call_flush(PyObject *self, PyObject *address)
{
    (void)self;
    void *context = PyLong_AsVoidPtr(address);
    int failed = 0;
    Py_BEGIN_ALLOW_THREADS
    if (slots.flush) slots.flush(context);
    if (!slots.ub_write) failed = fflush(stdout);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(!failed);
}

static PyObject *call_send_headers(PyObject *self, PyObject *arguments)
{
    (void)self;
    int status, refused = 0;
    const char *reason;
    PyObject *address, *texts; /* a tuple of bytes: name, value, name.. */
    if (!PyArg_ParseTuple(arguments, "OiyO!", &address, &status, &reason, &PyTuple_Type, &texts))
        return NULL;
    if (!slots.send_headers) Py_RETURN_TRUE;
    void *context = PyLong_AsVoidPtr(address);
    Py_ssize_t count = PyTuple_GET_SIZE(texts) / 2;
    sapi_embed_pair *pairs = PyMem_Calloc((size_t)count + 1, sizeof *pairs);
    if (pairs == NULL) return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        pairs[i].name = PyBytes_AsString(PyTuple_GET_ITEM(texts, 2 * i));
        pairs[i].value = PyBytes_AsString(PyTuple_GET_ITEM(texts, 2 * i + 1));
    }
    Py_BEGIN_ALLOW_THREADS
    refused = slots.send_headers(status, reason, pairs, (size_t)count, context);
    Py_END_ALLOW_THREADS
    PyMem_Free(pairs);
    return PyBool_FromLong(!refused);
}

static PyObject *call_read_post(PyObject *self, PyObject *arguments)
{
    (void)self;
    Py_ssize_t size;
    PyObject *address;
    if (!PyArg_ParseTuple(arguments, "On", &address, &size)) return NULL;
    if (!slots.read_post) return PyBytes_FromStringAndSize(NULL, 0);
    void *context = PyLong_AsVoidPtr(address);
    PyObject *data = PyBytes_FromStringAndSize(NULL, size);
    if (data == NULL) return NULL;
    char *buffer = PyBytes_AS_STRING(data);
    size_t got;
    Py_BEGIN_ALLOW_THREADS
    got = slots.read_post(buffer, (size_t)size, context);
    Py_END_ALLOW_THREADS
    if (got > (size_t)size) { /* SAPI_EMBED_GONE */
        Py_DECREF(data);
        Py_RETURN_NONE;
    }
    _PyBytes_Resize(&data, (Py_ssize_t)got);
    return data;
}

static PyObject *call_log_message(PyObject *self, PyObject *arguments)
{
    (void)self;
    const char *message;
    int priority;
    PyObject *address;
    if (!PyArg_ParseTuple(arguments, "Oyi", &address, &message, &priority)) return NULL;
    void *context = PyLong_AsVoidPtr(address);
    Py_BEGIN_ALLOW_THREADS
    if (slots.log_message)
        slots.log_message(message, priority, context);
    else
        fprintf(stderr, "%s\n", message);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef calls[] = {
    {"ub_write", call_ub_write, METH_VARARGS, "(context, data) -> all of it was taken"},
    {"flush", call_flush, METH_O, "(context) -> it worked"},
    {"send_headers", call_send_headers, METH_VARARGS,
     "(context, status, reason, (name, value, name..)) -> they were taken"},
    {"read_post", call_read_post, METH_VARARGS, "(context, size) -> bytes, None: they are lost"},
    {"log_message", call_log_message, METH_VARARGS, "(context, message, priority)"},
    {NULL, NULL, 0, NULL},
};

/* -- init, request, shutdown ------------------------------------------------------------------ */

/* Python turns a broken pipe into an exception only where it is no signal. */
static void ignore_broken_pipes(void)
{
    struct sigaction action;
    if (sigaction(SIGPIPE, NULL, &action) == 0 && !(action.sa_flags & SA_SIGINFO)
        && action.sa_handler == SIG_DFL) {
        action.sa_handler = SIG_IGN;
        sigaction(SIGPIPE, &action, NULL);
    }
}

/* Start the interpreter as its own program would, but leave the process's signals, locale and
 * standard streams to whoever embeds it. */
static int start_python(const char *executable)
{
    PyPreConfig before;
    PyConfig config;
    if (executable && strchr(executable, '/') && access(executable, X_OK) != 0) {
        snprintf(error_text, sizeof error_text, "%s cannot be run: %s", executable,
                 strerror(errno));
        return SAPI_EMBED_REFUSED;
    }
    PyPreConfig_InitPythonConfig(&before);
    before.parse_argv = 0;
    before.configure_locale = 0;
    before.coerce_c_locale = 0;
    PyStatus status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status))
        return fail(SAPI_EMBED_FAILED, status.err_msg ? status.err_msg : "Python did not start");
    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;
    config.install_signal_handlers = 0;
    config.configure_c_stdio = 0;
    if (executable) /* where pyvenv.cfg, and from there the packages, are found */
        status = PyConfig_SetBytesString(&config, &config.program_name, executable);
    if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        return fail(SAPI_EMBED_FAILED, status.err_msg ? status.err_msg : "Python did not start");
    return SAPI_EMBED_OK;
}

static PyObject *list_of_pairs(const sapi_embed_pair *pairs)
{
    PyObject *list = PyList_New(0);
    for (; list && pairs && pairs->name; pairs++) {
        PyObject *pair = Py_BuildValue("(yy)", pairs->name, pairs->value ? pairs->value : "");
        if (!pair || PyList_Append(list, pair) != 0) Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    return list;
}

/* Put the directories at the front of sys.path; -1 with an exception. */
static int add_paths(const char *const *paths)
{
    PyObject *list = PySys_GetObject("path"); /* borrowed */
    for (Py_ssize_t i = 0; list && paths && paths[i]; i++) {
        char *full = realpath(paths[i], NULL); /* the working directory may change */
        PyObject *text = PyUnicode_DecodeFSDefault(full ? full : paths[i]);
        free(full);
        int failed = text == NULL || PyList_Insert(list, i, text) != 0;
        Py_XDECREF(text);
        if (failed) return -1;
    }
    return 0;
}

static int start_host(const char *application, const char *interface, const char *const *paths)
{
    if (add_paths(paths) != 0) return fail_raised();
    if (host == NULL) { /* else an application could not be loaded before this one */
        PyObject *module = PyImport_AddModule("_sapi_embed"); /* borrowed */
        if (module == NULL || PyModule_AddFunctions(module, calls) != 0) return fail_raised();
        PyObject *code = Py_CompileString(host_source, "sapi_embed/host.py", Py_file_input);
        if (code == NULL) return fail_raised();
        host = PyImport_ExecCodeModule("sapi_embed", code);
        Py_DECREF(code);
        if (host == NULL) return fail_raised();
    }
    return outcome(PyObject_CallMethod(host, "start", "yy", application,
                                       interface ? interface : "auto"));
}

int sapi_embed_init(const char *application, const char *interface, const char *const *paths,
                    const sapi_embed_module *module)
{
    int was = OFF;
    if (!atomic_compare_exchange_strong(&state, &was, CHANGING))
        return fail(SAPI_EMBED_STATE, was == ENDED ? "Python cannot start twice in a process"
                                                   : "sapi_embed is initialised already");
    fail(SAPI_EMBED_OK, "");
    int code = SAPI_EMBED_OK;
    if (application == NULL) {
        code = fail(SAPI_EMBED_REFUSED, "no application was named");
    } else if (initial == NULL && Py_IsInitialized()) {
        code = fail(SAPI_EMBED_STATE, "the program runs Python itself: use sapi_adapters.Embed");
    } else {
        slots = module ? *module : (sapi_embed_module){0};
        if (initial == NULL) {
            code = start_python(slots.executable_location);
            started_here = code == SAPI_EMBED_OK;
            if (started_here) {
                ignore_broken_pipes();
                initial = PyEval_SaveThread();
            }
        }
        slots.executable_location = NULL; /* the program's text need not last */
        if (code == SAPI_EMBED_OK) {
            PyGILState_STATE gil = PyGILState_Ensure();
            code = start_host(application, interface, paths);
            PyGILState_Release(gil);
        }
    }
    atomic_store(&state, code == SAPI_EMBED_OK ? READY : OFF);
    return code;
}

int sapi_embed_request(const sapi_embed_info *info, void *context)
{
    fail(SAPI_EMBED_OK, "");
    if (info == NULL || info->uri == NULL)
        return fail(SAPI_EMBED_REFUSED, "the request has no uri");
    atomic_fetch_add(&running, 1); /* first: shutdown changes the state, then looks here */
    int code;
    if (atomic_load(&state) != READY) {
        code = fail(SAPI_EMBED_STATE, "sapi_embed is not initialised");
    } else {
        PyGILState_STATE gil = PyGILState_Ensure();
        code = outcome(PyObject_CallMethod(
            host, "request", "NyyNNy#", PyLong_FromVoidPtr(context),
            info->method ? info->method : "GET", info->uri, list_of_pairs(info->headers),
            list_of_pairs(info->variables), info->body, (Py_ssize_t)info->length));
        PyGILState_Release(gil);
    }
    atomic_fetch_sub(&running, 1);
    return code;
}

int sapi_embed_shutdown(void)
{
    int was = READY;
    fail(SAPI_EMBED_OK, "");
    if (!atomic_compare_exchange_strong(&state, &was, CHANGING))
        return fail(SAPI_EMBED_STATE, "sapi_embed is not initialised");
    if (!started_here || atomic_load(&running) != 0) {
        atomic_store(&state, READY);
        return fail(SAPI_EMBED_STATE, started_here
                                          ? "requests are running"
                                          : "only the thread that initialised may shut down");
    }
    PyEval_RestoreThread(initial);
    int code = outcome(PyObject_CallMethod(host, "stop", NULL));
    Py_CLEAR(host);
    if (Py_FinalizeEx() < 0 && code == SAPI_EMBED_OK)
        code = fail(SAPI_EMBED_FAILED, "Python could not write all that it held at its end");
    /* Modules of the standard library, such as 3.12's _datetime, do not survive a second start. */
    atomic_store(&state, ENDED);
    return code;
}

const char *sapi_embed_error(void)
{
    return error_text;
}
