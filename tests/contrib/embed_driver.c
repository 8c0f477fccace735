/* What test_embed_in_c.py asks of contrib/embed beyond its example: driver WHAT APPLICATION .. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sapi_embed.h"

enum { THREADS = 4 };

/* One request as the program sees it. */
typedef struct {
    char written[4096];
    size_t length;  /* of what was written */
    size_t given;   /* of that, what read_post gave back */
    size_t accepts; /* bytes, before the peer is gone */
    int status, heads, blocks, ended;
    int input;      /* read_post: 'e' echoes what was written, 'g' is gone, 's' calls shutdown,
                     * 't' waits for a request in another thread
                     * send_headers: 'h' refuses */
} peer;

static int show; /* print what the slots are called with */

static size_t ub_write(const char *data, size_t length, void *context)
{
    peer *self = context;
    if (show) printf("write %.*s\n", (int)length, data);
    if (self->ended || self->length + length > self->accepts) return 0;
    memcpy(self->written + self->length, data, length);
    self->length += length;
    return length;
}

static void flush(void *context)
{
    (void)context;
    if (show) printf("flush\n");
}

static int send_headers(int status, const char *reason, const sapi_embed_pair *headers,
                        size_t count, void *context)
{
    peer *self = context;
    self->heads++;
    self->status = status;
    if (show) {
        printf("head %d %s\n", status, reason);
        for (size_t i = 0; i < count; i++) printf("  %s=%s\n", headers[i].name, headers[i].value);
        if (headers[count].name != NULL) printf("no end\n");
    }
    return self->input == 'h';
}

static void *ask_elsewhere(void *unused);

static size_t read_post(char *buffer, size_t size, void *context)
{
    peer *self = context;
    size_t length = 0;
    if (self->input == 's') {
        int code = sapi_embed_shutdown();
        printf("shutdown in a request: %d %s\n", code, sapi_embed_error());
    }
    if (self->input == 't') {
        pthread_t thread;
        if (pthread_create(&thread, NULL, ask_elsewhere, NULL) == 0) pthread_join(thread, NULL);
    }
    if (self->input == 'g') return SAPI_EMBED_GONE;
    if (self->input == 'e') length = self->length - self->given;
    if (length > size) length = size;
    memcpy(buffer, self->written + self->given, length);
    self->given += length;
    if (show) printf("read %zu\n", length);
    return length;
}

static void log_message(const char *message, int priority, void *context)
{
    printf("log %d %s: %.*s\n", priority, context ? "request" : "process",
           (int)strcspn(message, "\n"), message);
}

static const sapi_embed_module module = {
    .executable_location = PYTHON,
    .ub_write = ub_write,
    .flush = flush,
    .send_headers = send_headers,
    .read_post = read_post,
    .log_message = log_message,
};

static const char *const paths[] = {".", NULL};

static void init(const char *application)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (sapi_embed_init(application, NULL, paths, &module) != SAPI_EMBED_OK) {
        printf("init: %s\n", sapi_embed_error());
        exit(1);
    }
}

static void finish(void)
{
    if (sapi_embed_shutdown() != SAPI_EMBED_OK) {
        printf("shutdown: %s\n", sapi_embed_error());
        exit(1);
    }
}

static int ask(peer *self, const char *method, const char *uri, const char *body)
{
    memset(self->written, 0, sizeof self->written);
    if (!self->accepts) self->accepts = sizeof self->written - 1;
    sapi_embed_info info = {
        .method = method, .uri = uri, .body = body, .length = body ? strlen(body) : 0};
    int code = sapi_embed_request(&info, self);
    self->ended = 1;
    return code;
}

static void *ask_elsewhere(void *unused)
{
    (void)unused;
    peer self = {0};
    int code = ask(&self, "GET", "/echo?elsewhere", "");
    printf("elsewhere %d %s\n", code, self.written);
    return NULL;
}

/* show METHOD URI INPUT ACCEPTS: every call of a slot, then the code. */
static void show_request(char **arguments)
{
    peer self = {.input = arguments[2][0], .accepts = strtoul(arguments[3], NULL, 10)};
    show = 1;
    int code = ask(&self, arguments[0], arguments[1], self.input == '-' ? "" : NULL);
    printf("code %d %s\n", code, sapi_embed_error());
}

/* threads COUNT: each request's answer comes to its own context. */
static int each;

static void *work(void *number)
{
    char uri[64], body[64], expected[160];
    for (int i = 0; i < each; i++) {
        peer self = {0};
        snprintf(uri, sizeof uri, "/echo?%d.%d", *(int *)number, i);
        snprintf(body, sizeof body, "body %d of %d", i, *(int *)number);
        snprintf(expected, sizeof expected, "%s %s", uri + 6, body);
        if (ask(&self, "POST", uri, body) != SAPI_EMBED_OK || self.heads != 1
            || self.status != 200 || strcmp(self.written, expected) != 0) {
            printf("expected %s, got %d %s (%s)\n", expected, self.status, self.written,
                   sapi_embed_error());
            return NULL;
        }
    }
    printf("well\n");
    return NULL;
}

static void run_threads(int count)
{
    pthread_t threads[THREADS];
    int numbers[THREADS];
    each = count / THREADS;
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        if (pthread_create(&threads[i], NULL, work, &numbers[i]) != 0) exit(1);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

/* leak COUNT: Python's blocks and the resident KiB that COUNT requests leave behind. */
static long resident(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
    if (file != NULL) fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void measure(int count)
{
    static peer self;
    long blocks = 0, size = 0;
    for (int i = -500; i <= count; i++) {
        self = (peer){0};
        ask(&self, "POST", i == 0 || i == count ? "/blocks?collect" : "/blocks", "some body");
        if (i == 0) {
            blocks = atol(self.written);
            size = resident();
        }
    }
    printf("%ld %ld\n", atol(self.written) - blocks, resident() - size);
}

/* misuse: each wrong call has an answer. */
static void *shut_down(void *unused)
{
    (void)unused;
    int code = sapi_embed_shutdown();
    printf("shutdown elsewhere: %d %s\n", code, sapi_embed_error());
    return NULL;
}

static void misuse(const char *application)
{
    peer self = {0};
    pthread_t thread;
    int code = ask(&self, "GET", "/", "");
    printf("request before: %d %s\n", code, sapi_embed_error());
    code = sapi_embed_shutdown();
    printf("shutdown before: %d %s\n", code, sapi_embed_error());
    code = sapi_embed_init(NULL, NULL, paths, &module);
    printf("no name: %d %s\n", code, sapi_embed_error());
    sapi_embed_module other = module;
    other.executable_location = "/nowhere/python";
    code = sapi_embed_init(application, NULL, paths, &other);
    printf("no python: %d %s\n", code, sapi_embed_error());
    code = sapi_embed_init("nowhere:app", NULL, paths, &module);
    printf("no module: %d %s\n", code, sapi_embed_error());
    code = sapi_embed_init(application, "cgi", paths, &module);
    printf("no interface: %d %s\n", code, sapi_embed_error());
    init(application);
    code = sapi_embed_init(application, NULL, paths, &module);
    printf("init twice: %d %s\n", code, sapi_embed_error());
    if (pthread_create(&thread, NULL, shut_down, NULL) == 0) pthread_join(thread, NULL);
    code = sapi_embed_request(NULL, NULL);
    printf("no request: %d %s\n", code, sapi_embed_error());
    code = ask(&(peer){0}, "G T", "/", "");
    printf("bad method: %d %s\n", code, sapi_embed_error());
    code = ask(&(peer){0}, "GET", "no-slash", "");
    printf("bad uri: %d %s\n", code, sapi_embed_error());
    sapi_embed_pair headers[] = {{"Transfer-Encoding", "chunked"}, {NULL, NULL}};
    code = sapi_embed_request(&(sapi_embed_info){.uri = "/", .headers = headers}, &self);
    printf("bad header: %d %s\n", code, sapi_embed_error());
    sapi_embed_pair length[] = {{"CONTENT_LENGTH", "ten"}, {NULL, NULL}};
    code = sapi_embed_request(&(sapi_embed_info){.uri = "/", .variables = length}, &self);
    printf("bad length: %d %s\n", code, sapi_embed_error());
    ask(&(peer){.input = 's'}, "GET", "/body", NULL);
    code = ask(&(peer){0}, "GET", "/", "");
    printf("request after all: %d %s\n", code, sapi_embed_error());
    finish();
    code = sapi_embed_init(application, NULL, paths, &module);
    printf("init again: %d %s\n", code, sapi_embed_error());
    code = ask(&self, "GET", "/", "");
    printf("request after the end: %d %s\n", code, sapi_embed_error());
    code = sapi_embed_shutdown();
    printf("shutdown again: %d %s\n", code, sapi_embed_error());
}

/* bare URI: a request of which the program tells nothing else, with no slots. */
static int bare(const char *application, const char *uri)
{
    const sapi_embed_module none = {.executable_location = PYTHON};
    if (sapi_embed_init(application, NULL, paths, &none) != SAPI_EMBED_OK) return 1;
    int code = sapi_embed_request(&(sapi_embed_info){.uri = uri}, NULL);
    fprintf(stderr, "code %d %s\n", code, sapi_embed_error());
    return sapi_embed_shutdown();
}

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    if (strcmp(argv[1], "bare") == 0) return bare(argv[2], argv[3]);
    if (strcmp(argv[1], "misuse") == 0) {
        misuse(argv[2]);
        return 0;
    }
    init(argv[2]);
    if (strcmp(argv[1], "show") == 0) show_request(argv + 3);
    if (strcmp(argv[1], "threads") == 0) run_threads(atoi(argv[3]));
    if (strcmp(argv[1], "left") == 0) {
        ask(&(peer){.input = 'e'}, "POST", "/left", NULL);
        peer self = {0};
        ask(&self, "POST", "/release", "");
        printf("%s\n", self.written);
    }
    if (strcmp(argv[1], "leak") == 0) measure(atoi(argv[3]));
    finish();
    return 0;
}
