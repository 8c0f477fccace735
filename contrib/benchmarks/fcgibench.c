/* fcgibench: a closed-loop FastCGI and SCGI load client for a Unix or TCP socket.
 *
 *   cc -O2 -o fcgibench fcgibench.c
 *   fcgibench [-c CONNS] [-n REQUESTS] [-k | -s] [-b BODY_BYTES] [-u URI] [-p NAME=VALUE] SOCKET
 *
 * SOCKET is a path, or HOST:PORT. -k asks for FCGI_KEEP_CONN and reuses the connection; -s speaks
 * SCGI, where a response ends with its connection; -p adds one parameter (php-fpm wants
 * SCRIPT_FILENAME) and may be given more than once.
 *
 * Prints one line: req/s, p50/p99/max latency in microseconds, requests that were good and bad,
 * bytes of STDOUT, seconds. The exit status is 0 only when none was bad.
 *
 * CONNS requests are always under way: the next one starts when one ends, so the rate is the
 * server's as long as this process has processor time to spare (the caller should look). The
 * request is nginx's usual 27 parameters with a browser's headers. REMOTE_PORT and a digit of the
 * cookie differ from request to request, so a cache over whole requests gains nothing. A request is
 * good only when END_REQUEST(REQUEST_COMPLETE) came and STDOUT was not empty. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { BEGIN_REQUEST = 1, END_REQUEST = 3, PARAMS = 4, STDIN = 5, STDOUT = 6 };
enum { RESPONDER = 1, KEEP_CONN = 1 };
enum { MAX_EXTRA = 16, PARAMS_ROOM = 8192, STALL_MS = 10000 };

typedef struct {
    int fd;              /* 0: not connected */
    int busy;            /* a request is under way */
    size_t sent;         /* bytes of the request already sent */
    unsigned char header[8];
    int header_have;
    int type;            /* of the record being read */
    size_t skip;         /* bytes of its content and padding still to come */
    size_t out;          /* bytes of STDOUT so far */
    unsigned char end[8];
    int end_have;
    uint64_t started_ns;
} connection;

static const char *uri = "/";
static size_t body_size;
static int keep;
static int scgi;
static long total = 20000;
static int connections = 32;
static const char *extra[MAX_EXTRA];
static int extras;

static struct sockaddr_storage address;
static socklen_t address_size;
static int family;

static unsigned char *request;
static size_t request_size;
static long port_at, salt_at;

static int poller;
static long started, done, good, bad;
static size_t out_bytes;
static uint64_t *latency;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "fcgibench: %s\n", what);
    exit(2);
}

/* The request: built once, and varied in place. */

static void append(const void *p, size_t n)
{
    request = realloc(request, request_size + n);
    if (!request) die("out of memory");
    memcpy(request + request_size, p, n);
    request_size += n;
}

/* A stream's records; with n == 0 the one empty record that ends it. */
static void append_records(int type, const unsigned char *p, size_t n)
{
    static const unsigned char zeros[8];
    do {
        size_t m = n > 65528 ? 65528 : n;
        unsigned char padding = (8 - (m & 7)) & 7;
        unsigned char header[8] = {1, type, 0, 1, m >> 8, m & 255, padding, 0};
        append(header, 8);
        append(p, m);
        append(zeros, padding);
        p += m;
        n -= m;
    } while (n);
}

static size_t put_length(unsigned char *o, size_t n)
{
    if (n < 128) {
        o[0] = n;
        return 1;
    }
    o[0] = 128 | n >> 24;
    o[1] = n >> 16;
    o[2] = n >> 8;
    o[3] = n;
    return 4;
}

static size_t put_pair(unsigned char *o, const char *name, size_t name_size, const char *value)
{
    size_t value_size = strlen(value), n = 0;
    if (scgi) {
        memcpy(o, name, name_size);
        o[name_size] = 0;
        memcpy(o + name_size + 1, value, value_size + 1);
        return name_size + value_size + 2;
    }
    n += put_length(o + n, name_size);
    n += put_length(o + n, value_size);
    memcpy(o + n, name, name_size);
    memcpy(o + n + name_size, value, value_size);
    return n + name_size + value_size;
}

static long after(const char *mark)
{
    unsigned char *p = memmem(request, request_size, mark, strlen(mark));
    return p - request + strlen(mark);
}

static void build_request(void)
{
    char length[32] = "";
    if (body_size || scgi) snprintf(length, sizeof length, "%zu", body_size);
    const char *pairs[][2] = {
        {"QUERY_STRING", "a=1&b=two"},
        {"REQUEST_METHOD", body_size ? "POST" : "GET"},
        {"CONTENT_TYPE", body_size ? "application/octet-stream" : ""},
        {"CONTENT_LENGTH", length},
        {"SCRIPT_NAME", ""},
        {"PATH_INFO", uri},
        {"REQUEST_URI", uri},
        {"DOCUMENT_URI", uri},
        {"DOCUMENT_ROOT", "/var/www/html"},
        {"SERVER_PROTOCOL", "HTTP/1.1"},
        {"REQUEST_SCHEME", "http"},
        {"GATEWAY_INTERFACE", "CGI/1.1"},
        {"SERVER_SOFTWARE", "nginx/1.22.1"},
        {"REMOTE_ADDR", "127.0.0.1"},
        {"REMOTE_PORT", "51234"},
        {"REMOTE_USER", ""},
        {"SERVER_ADDR", "127.0.0.1"},
        {"SERVER_PORT", "8080"},
        {"SERVER_NAME", "localhost"},
        {"REDIRECT_STATUS", "200"},
        {"HTTP_HOST", "localhost:8080"},
        {"HTTP_USER_AGENT", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 "
                            "(KHTML, like Gecko) Chrome/120.0 Safari/537.36"},
        {"HTTP_ACCEPT", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"},
        {"HTTP_ACCEPT_LANGUAGE", "en-GB,en;q=0.5"},
        {"HTTP_ACCEPT_ENCODING", "gzip, deflate, br"},
        {"HTTP_CONNECTION", "keep-alive"},
        {"HTTP_COOKIE", "session=eyJhbGciOiJIUzI1NiJ9.e30.XmNK3GpH3Ys_7wsYBfq4C3M6goz71I7dTgUkuIa5l"
                        "yQ; theme=dark"},
    };
    static unsigned char params[PARAMS_ROOM];
    size_t n = 0, room = sizeof params - 2048;

    if (strlen(uri) > 1024) die("the URI is too long");
    if (scgi) {
        n += put_pair(params + n, "CONTENT_LENGTH", 14, length);
        n += put_pair(params + n, "SCGI", 4, "1");
    }
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (!scgi || strcmp(pairs[i][0], "CONTENT_LENGTH"))
            n += put_pair(params + n, pairs[i][0], strlen(pairs[i][0]), pairs[i][1]);
    for (int i = 0; i < extras; i++) {
        const char *equals = strchr(extra[i], '=');
        if (!equals) die("-p takes NAME=VALUE");
        if (n + strlen(extra[i]) > room) die("too many parameters");
        n += put_pair(params + n, extra[i], equals - extra[i], equals + 1);
    }

    unsigned char *body = calloc(body_size + 1, 1);
    if (!body) die("out of memory");
    memset(body, 'x', body_size);
    if (scgi) {
        char size[16];
        append(size, snprintf(size, sizeof size, "%zu:", n));
        append(params, n);
        append(",", 1);
        append(body, body_size);
        free(body);
        port_at = after("REMOTE_PORT") + 1;
        salt_at = after("theme=");
        return;
    }
    const unsigned char begin[8] = {0, RESPONDER, keep ? KEEP_CONN : 0};
    append_records(BEGIN_REQUEST, begin, sizeof begin);
    append_records(PARAMS, params, n);
    append_records(PARAMS, params, 0);
    port_at = after("REMOTE_PORT");
    salt_at = after("theme=");
    if (body_size) append_records(STDIN, body, body_size);
    free(body);
    append_records(STDIN, params, 0);
}

static void vary(long i)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%05ld", 10000 + i % 50000);
    memcpy(request + port_at, digits, 5);
    snprintf(digits, sizeof digits, "%04ld", i / 50000 % 10000);
    memcpy(request + salt_at, digits, 4);
}

/* Connections. */

static void resolve(const char *target)
{
    const char *colon = strrchr(target, ':');
    if (*target == '/' || !colon) {
        struct sockaddr_un *u = (void *)&address;
        if (strlen(target) >= sizeof u->sun_path) die("the socket's path is too long");
        u->sun_family = family = AF_UNIX;
        strcpy(u->sun_path, target);
        address_size = sizeof *u;
    } else {
        struct sockaddr_in *i = (void *)&address;
        char host[64] = "";
        if ((size_t)(colon - target) >= sizeof host) die("the host is too long");
        memcpy(host, target, colon - target);
        i->sin_family = family = AF_INET;
        i->sin_port = htons(atoi(colon + 1));
        if (inet_pton(AF_INET, host, &i->sin_addr) != 1) die("the host must be an IPv4 address");
        address_size = sizeof *i;
    }
}

/* A full backlog (EAGAIN on a Unix socket) is the server being busy: wait, at most 0.4 s. */
static int dial(void)
{
    int on = 1, connected = 0;
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        perror("socket");
        exit(2);
    }
    for (int i = 0; i < 2000 && !connected; i++) {
        if (!connect(fd, (void *)&address, address_size)) connected = 1;
        else if (errno == EAGAIN || errno == EINTR) usleep(200);
        else break;
    }
    if (!connected) {
        close(fd);
        return -1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (family == AF_INET) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

/* False when the peer has gone; what it sent before that may still be read. */
static int send_more(connection *k)
{
    while (k->sent < request_size) {
        ssize_t n = send(k->fd, request + k->sent, request_size - k->sent, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN;
        k->sent += n;
    }
    return 1;
}

/* Begin the next request on this connection; one that cannot be begun counts as bad. */
static void start(connection *k)
{
    while (started < total) {
        int fd = k->fd > 0 ? k->fd : dial();
        int fresh = k->fd <= 0;
        if (fd < 0) {
            started++;
            done++;
            bad++;
            continue;
        }
        memset(k, 0, sizeof *k);
        k->fd = fd;
        if (fresh) {
            struct epoll_event e = {EPOLLIN | EPOLLOUT | EPOLLET, {.ptr = k}};
            epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
        }
        k->started_ns = now_ns();
        k->busy = 1;
        vary(started++);
        if (send_more(k) || fresh) return;
        /* The server closed a connection it was asked to keep: a failure, and a new connection. */
        close(k->fd);
        memset(k, 0, sizeof *k);
        done++;
        bad++;
    }
}

/* Read records out of p..end; true when an END_REQUEST is complete. */
static int parse(connection *k, const unsigned char *p, const unsigned char *end)
{
    int finished = 0;
    while (p < end) {
        if (k->skip) {
            size_t m = (size_t)(end - p) < k->skip ? (size_t)(end - p) : k->skip;
            if (k->type == END_REQUEST)
                for (size_t i = 0; i < m && k->end_have < 8; i++) k->end[k->end_have++] = p[i];
            p += m;
            k->skip -= m;
            if (!k->skip && k->type == END_REQUEST) finished = 1;
            continue;
        }
        k->header[k->header_have++] = *p++;
        if (k->header_have == 8) {
            size_t length = k->header[4] << 8 | k->header[5];
            k->header_have = 0;
            k->type = k->header[1];
            k->skip = length + k->header[6];
            if (k->type == STDOUT) k->out += length;
        }
    }
    return finished;
}

static void on_event(connection *k)
{
    static unsigned char buffer[262144];
    int finished = 0, ended = 0;

    if (k->fd <= 0 || !k->busy) return;
    if (k->sent < request_size) send_more(k);
    while (!(finished && keep)) {
        ssize_t n = recv(k->fd, buffer, sizeof buffer, 0);
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) {
            ended = 1;
            if (scgi) finished = n == 0;
            break;
        }
        if (scgi) k->out += n;
        else if (parse(k, buffer, buffer + n)) finished = 1;
    }
    if (!finished && !ended) return;

    k->busy = 0;
    done++;
    if (finished && k->end[4] == 0 && k->out > 0) {
        latency[good++] = now_ns() - k->started_ns;
        out_bytes += k->out;
    } else {
        bad++;
    }
    if (!keep || ended) {
        close(k->fd);
        k->fd = 0;
    }
    start(k);
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int options(int argc, char **argv)
{
    int o;
    while ((o = getopt(argc, argv, "c:n:ksb:u:p:")) != -1) switch (o) {
        case 'c': connections = atoi(optarg); break;
        case 'n': total = atol(optarg); break;
        case 'k': keep = 1; break;
        case 's': scgi = 1; break;
        case 'b': body_size = atol(optarg); break;
        case 'u': uri = optarg; break;
        case 'p':
            if (extras == MAX_EXTRA) die("too many parameters");
            extra[extras++] = optarg;
            break;
        default: return 0;
    }
    return argv[optind] && connections > 0 && total > 0 && !(keep && scgi);
}

int main(int argc, char **argv)
{
    if (!options(argc, argv)) {
        fprintf(stderr, "usage: fcgibench [-c CONNS] [-n REQUESTS] [-k | -s] [-b BODY_BYTES] [-u URI] "
                        "[-p NAME=VALUE] SOCKET\n");
        return 2;
    }
    resolve(argv[optind]);
    build_request();
    poller = epoll_create1(EPOLL_CLOEXEC);
    connection *all = calloc(connections, sizeof *all);
    latency = calloc(total, sizeof *latency);
    if (!all || !latency) die("out of memory");

    uint64_t t0 = now_ns();
    for (int i = 0; i < connections; i++) start(&all[i]);
    while (done < total) {
        struct epoll_event events[256];
        int n = epoll_wait(poller, events, 256, STALL_MS);
        if (n == 0) {
            fprintf(stderr, "stalled: %ld of %ld done\n", done, total);
            bad += total - done;
            break;
        }
        for (int i = 0; i < n; i++) on_event(events[i].data.ptr);
    }
    double seconds = (now_ns() - t0) / 1e9;

    if (!good) {
        printf("good=0 bad=%ld\n", bad);
        return 1;
    }
    qsort(latency, good, sizeof *latency, ascending);
    printf("rps=%.0f p50=%.0fus p99=%.0fus max=%.0fus good=%ld bad=%ld out=%zu secs=%.2f\n",
           good / seconds, latency[good / 2] / 1e3, latency[good * 99 / 100] / 1e3,
           latency[good - 1] / 1e3, good, bad, out_bytes, seconds);
    return bad ? 1 : 0;
}
