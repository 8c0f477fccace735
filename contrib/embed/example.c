/* example: one request to an application, from C.
 *
 *   ./example MODULE:ATTRIBUTE METHOD PATH [BODY]
 *
 * The module is looked for in the working directory too. The response is printed as it is made,
 * logs go to standard error. The exit status is 0, or 1 with a line that says why, or 2. */
#include <stdio.h>
#include <string.h>

#include "sapi_embed.h"

#ifndef PYTHON
#define PYTHON NULL
#endif

static int print_head(int status, const char *reason, const sapi_embed_pair *headers,
                      size_t count, void *context)
{
    FILE *output = context;
    fprintf(output, "HTTP/1.1 %d %s\n", status, reason);
    for (size_t i = 0; i < count; i++)
        fprintf(output, "%s: %s\n", headers[i].name, headers[i].value);
    return fputs("\n", output) < 0;
}

static size_t print_body(const char *data, size_t length, void *context)
{
    return fwrite(data, 1, length, context);
}

static void flush(void *context)
{
    fflush(context);
}

static void log_message(const char *message, int priority, void *context)
{
    fprintf(stderr, "%s <%d> %s\n", context ? "request" : "process", priority, message);
}

static int failed(void)
{
    fprintf(stderr, "example: %s\n", sapi_embed_error());
    return 1;
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc > 5) {
        fprintf(stderr, "usage: example MODULE:ATTRIBUTE METHOD PATH [BODY]\n");
        return 2;
    }
    const char *body = argc > 4 ? argv[4] : "";
    const char *const paths[] = {".", NULL};
    const sapi_embed_pair headers[] = {
        {"User-Agent", "example"},
        {"Content-Type", "application/x-www-form-urlencoded"},
        {NULL, NULL},
    };
    const sapi_embed_pair variables[] = {{"REMOTE_USER", "ada"}, {NULL, NULL}};
    const sapi_embed_module module = {
        .executable_location = PYTHON,
        .ub_write = print_body,
        .flush = flush,
        .send_headers = print_head,
        .log_message = log_message,
    };
    const sapi_embed_info info = {
        .method = argv[2],
        .uri = argv[3],
        .headers = headers,
        .variables = variables,
        .body = body,
        .length = strlen(body),
    };
    if (sapi_embed_init(argv[1], NULL, paths, &module) != SAPI_EMBED_OK) return failed();
    int status = sapi_embed_request(&info, stdout) == SAPI_EMBED_OK ? 0 : failed();
    if (sapi_embed_shutdown() != SAPI_EMBED_OK) return failed();
    return status;
}
