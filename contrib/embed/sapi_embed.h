/* sapi_embed: WSGI and ASGI applications from C, after PHP's embed SAPI.
 *
 * Init once, any number of requests from any threads, shutdown. README.md tells more. */
#ifndef SAPI_EMBED_H
#define SAPI_EMBED_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SAPI_EMBED_OK = 0,
    SAPI_EMBED_STATE,   /* not initialised, initialised already, or requests still run */
    SAPI_EMBED_REFUSED, /* what the program gave is wrong: application, option, request */
    SAPI_EMBED_FAILED,  /* Python did not start, or the application could not be loaded */
    SAPI_EMBED_CUT      /* the response is incomplete: the application or ub_write gave up */
};

#define SAPI_EMBED_GONE ((size_t)-1) /* from read_post: the body will not come to its end */

/* Arrays of pairs end with one whose name is NULL; NULL is an array of none. */
typedef struct {
    const char *name, *value;
} sapi_embed_pair;

/* The slots, each of which may be NULL. A request's own are called by the thread that called
 * sapi_embed_request, without the GIL, until it returns, with its context; by another thread
 * only where the application hands its request to one. */
typedef struct {
    /* The python program whose packages are used, such as a virtual environment's bin/python;
     * NULL: the python3 that is found along PATH. */
    const char *executable_location;

    /* Take length bytes of the body; fewer taken: the response is given up. NULL: to stdout. */
    size_t (*ub_write)(const char *data, size_t length, void *context);

    /* Push on what was written. */
    void (*flush)(void *context);

    /* Take the head, once, before the body. Not 0: the response is given up. */
    int (*send_headers)(int status, const char *reason, const sapi_embed_pair *headers,
                        size_t count, void *context);

    /* Put 1 to size bytes of the request's body into buffer and return how many; 0 at its end. */
    size_t (*read_post)(char *buffer, size_t size, void *context);

    /* Log lines, UTF-8, no newline at the end; priority is syslog's, 3 error to 7 debug. context
     * is NULL for what belongs to no request; any thread may log. NULL: to stderr. */
    void (*log_message)(const char *message, int priority, void *context);
} sapi_embed_module;

typedef struct {
    const char *method;               /* NULL: GET */
    const char *uri;                  /* path and query, percent-encoded, or an absolute URL */
    const sapi_embed_pair *headers;   /* as a client sends them; none that is hop by hop */
    const sapi_embed_pair *variables; /* CGI's, such as REMOTE_ADDR; they beat those made here */
    const char *body;                 /* NULL: read_post gives it */
    size_t length;
} sapi_embed_info;

/* Start Python and load application, "module:attribute". interface is "wsgi", "asgi", "asgi2", or
 * NULL to find out. paths are directories for the front of sys.path, up to NULL. module is copied,
 * the texts are not needed afterwards. The GIL is free when this returns. When the application
 * cannot be loaded, init may be called again, for another one too; Python stays as it started. */
int sapi_embed_init(const char *application, const char *interface, const char *const *paths,
                    const sapi_embed_module *module);

/* Run one request, to the application's own end. What it raises is a response with status 500. */
int sapi_embed_request(const sapi_embed_info *info, void *context);

/* End the application and Python, for good: Python does not start twice in a process. By the
 * thread that called init (first), while no request runs. */
int sapi_embed_shutdown(void);

/* What this thread's last call had to say: one line, "" when it was well. */
const char *sapi_embed_error(void);

#ifdef __cplusplus
}
#endif

#endif
