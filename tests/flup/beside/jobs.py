#!/usr/bin/env python
"""flup's process models by themselves, for a protocol of one's own: ``jobs.py MODEL PATH``."""

import socket
import sys


class Job:
    def __init__(self, sock, addr, greeting):
        self._sock = sock
        self._greeting = greeting

    def run(self):
        self._sock.setblocking(True)
        self._sock.sendall(self._greeting)
        self._sock.sendall(self._sock.recv(100).upper())
        self._sock.close()


sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[2])
sock.listen(socket.SOMAXCONN)
options = {"jobClass": Job, "jobArgs": (b"Hello World!\n",)}
if sys.argv[1] == "threads":
    from flup.server.threadedserver import ThreadedServer

    server = ThreadedServer(maxThreads=10, **options)
elif sys.argv[1] == "fork":
    from flup.server.preforkserver import PreforkServer

    server = PreforkServer(maxChildren=10, **options)
else:
    from flup.server.singleserver import SingleServer

    server = SingleServer(**options)
sys.exit((server.run(sock) and 42) or 0)
