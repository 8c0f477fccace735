/* cecho: Hello World under libfcgi, the reference implementation in C, as a peer to measure.
 *
 *   cc -O2 -o cecho cecho.c -lfcgi
 *   cecho SOCKET [PROCESSES]
 *
 * Reads the request's body to its end, as an application must, and answers 13 bytes of text. */
#include <fcgiapp.h>
#include <stdlib.h>
#include <unistd.h>

static const char response[] = "Status: 200 OK\r\n"
                               "Content-Type: text/plain\r\n"
                               "Content-Length: 13\r\n"
                               "\r\n"
                               "Hello, World!";

int main(int argc, char **argv)
{
    static char buffer[65536];
    FCGX_Request request;

    if (argc < 2) return 2;
    FCGX_Init();
    int listener = FCGX_OpenSocket(argv[1], 1024);
    if (listener < 0) return 1;
    int processes = argc > 2 ? atoi(argv[2]) : 1;
    for (int i = 1; i < processes; i++)
        if (fork() == 0) break;

    FCGX_InitRequest(&request, listener, 0);
    while (FCGX_Accept_r(&request) >= 0) {
        while (FCGX_GetStr(buffer, sizeof buffer, request.in) > 0) continue;
        FCGX_PutS(response, request.out);
        FCGX_Finish_r(&request);
    }
    return 0;
}
