/* sapi_embed.c: Python's start and end, and the way into host.py, which is compiled in as host.inc
 * and does the rest: it is given addresses, and reads and calls what is there through ctypes. */
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
static bool started;       /* Python, by this file */
static _Thread_local bool started_here;
static PyObject *host; /* host.py as a module */
static _Thread_local char error_text[1024];

static int fail(int code, const char *text)
{
    snprintf(error_text, sizeof error_text, "%s", text);
    return code;
}

/* Take the (code, text) that host.py's functions return, or NULL for the exception that is set. */
static int outcome(PyObject *result)
{
    int code = SAPI_EMBED_FAILED;
    const char *text;
    if (result != NULL && PyArg_ParseTuple(result, "is", &code, &text)) {
        fail(code, text);
    } else {
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        PyErr_NormalizeException(&type, &value, &trace);
        PyObject *said = PyUnicode_FromFormat("%s: %S", Py_TYPE(value)->tp_name, value);
        text = said ? PyUnicode_AsUTF8(said) : NULL;
        fail(code, text ? text : "Python raised an error without a text");
        PyErr_Clear();
        Py_XDECREF(said);
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(trace);
    }
    Py_XDECREF(result);
    return code;
}

/* Start the interpreter as its own program would, but leave the process's signals, locale and
 * standard streams to whoever embeds it. */
static int start_python(const char *executable)
{
    if (executable && strchr(executable, '/') && access(executable, X_OK) != 0) {
        snprintf(error_text, sizeof error_text, "%s cannot be run: %s", executable,
                 strerror(errno));
        return SAPI_EMBED_REFUSED;
    }
    PyPreConfig before;
    PyPreConfig_InitPythonConfig(&before);
    before.parse_argv = before.configure_locale = before.coerce_c_locale = 0;
    PyStatus status = Py_PreInitialize(&before);
    if (!PyStatus_Exception(status)) {
        PyConfig config;
        PyConfig_InitPythonConfig(&config);
        config.parse_argv = config.install_signal_handlers = config.configure_c_stdio = 0;
        if (executable) /* where pyvenv.cfg, and from there the packages, are found */
            status = PyConfig_SetBytesString(&config, &config.program_name, executable);
        if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
        PyConfig_Clear(&config);
    }
    if (PyStatus_Exception(status))
        return fail(SAPI_EMBED_FAILED, status.err_msg ? status.err_msg : "Python did not start");
    /* Python turns a broken pipe into an exception only where it is no signal. */
    if (PyOS_getsig(SIGPIPE) == SIG_DFL) PyOS_setsig(SIGPIPE, SIG_IGN);
    started = started_here = true;
    PyEval_SaveThread();
    return SAPI_EMBED_OK;
}

static int start_host(const char *application, const char *interface, const char *const *paths,
                      const sapi_embed_module *module)
{
    for (int i = 0; paths && paths[i]; i++) {
        char *full = realpath(paths[i], NULL); /* the working directory may change */
        PyObject *path = PyUnicode_DecodeFSDefault(full ? full : paths[i]);
        free(full);
        if (path == NULL || PyList_Insert(PySys_GetObject("path"), i, path) != 0)
            return outcome(NULL);
        Py_DECREF(path);
    }
    if (host == NULL) { /* else an application could not be loaded before this one */
        PyObject *code = Py_CompileString(host_source, "sapi_embed/host.py", Py_file_input);
        host = code ? PyImport_ExecCodeModule("sapi_embed", code) : NULL;
        Py_XDECREF(code);
        if (host == NULL) return outcome(NULL);
    }
    return outcome(PyObject_CallMethod(
        host, "start", "yyNNN", application, interface ? interface : "auto",
        PyLong_FromVoidPtr((void *)module), PyLong_FromVoidPtr(stdout),
        PyLong_FromVoidPtr(stderr)));
}

int sapi_embed_init(const char *application, const char *interface, const char *const *paths,
                    const sapi_embed_module *module)
{
    int was = OFF, code = SAPI_EMBED_OK;
    if (!atomic_compare_exchange_strong(&state, &was, CHANGING))
        return fail(SAPI_EMBED_STATE, was == ENDED ? "Python cannot start twice in a process"
                                                   : "sapi_embed is initialised already");
    if (application == NULL)
        code = fail(SAPI_EMBED_REFUSED, "no application was named");
    else if (!started && Py_IsInitialized())
        code = fail(SAPI_EMBED_STATE, "the program runs Python itself: use sapi_adapters.Embed");
    else if (!started)
        code = start_python(module ? module->executable_location : NULL);
    if (code == SAPI_EMBED_OK) {
        PyGILState_STATE gil = PyGILState_Ensure();
        code = start_host(application, interface, paths, module);
        PyGILState_Release(gil);
    }
    atomic_store(&state, code == SAPI_EMBED_OK ? READY : OFF);
    return code;
}

int sapi_embed_request(const sapi_embed_info *info, void *context)
{
    if (info == NULL || info->uri == NULL)
        return fail(SAPI_EMBED_REFUSED, "the request has no uri");
    int code;
    atomic_fetch_add(&running, 1); /* first: shutdown changes the state, then looks here */
    if (atomic_load(&state) != READY) {
        code = fail(SAPI_EMBED_STATE, "sapi_embed is not initialised");
    } else {
        PyGILState_STATE gil = PyGILState_Ensure();
        code = outcome(PyObject_CallMethod(host, "request", "NN", PyLong_FromVoidPtr((void *)info),
                                           PyLong_FromVoidPtr(context)));
        PyGILState_Release(gil);
    }
    atomic_fetch_sub(&running, 1);
    return code;
}

int sapi_embed_shutdown(void)
{
    int was = READY;
    if (!atomic_compare_exchange_strong(&state, &was, CHANGING))
        return fail(SAPI_EMBED_STATE, "sapi_embed is not initialised");
    if (!started_here || atomic_load(&running) != 0) {
        atomic_store(&state, READY);
        return fail(SAPI_EMBED_STATE, started_here
                                          ? "requests are running"
                                          : "only the thread that initialised may shut down");
    }
    PyGILState_Ensure();
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
