"""Serves the demonstration behind another web server; ``serve -f httpd.conf`` needs none.

    python demo.py [PORT]

With nginx installed it is the real thing: the application under ``fcgi-prefork`` on a Unix socket,
nginx in front on 127.0.0.1. Without nginx the application is embedded behind the standard
library's HTTP server, which shows the SAPI ``embed``. Ctrl-C ends everything.
"""

import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SYSTEM_PROGRAMS = "/usr/sbin:/usr/local/sbin:/usr/bin"

NGINX = """
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 128; }}
http {{
    access_log off;
    client_max_body_size 16m;
    client_body_temp_path {directory}/body;
    fastcgi_temp_path {directory}/fastcgi;
    proxy_temp_path {directory}/proxy;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            include {parameters};
            fastcgi_pass unix:{directory}/app.sock;
        }}
    }}
}}
"""


def main():
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    port = free_port(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:{SYSTEM_PROGRAMS}")
    parameters = Path("/etc/nginx/fastcgi_params")
    try:
        if nginx and parameters.exists():
            behind_nginx(nginx, parameters, port)
        else:
            embedded(port)
    except KeyboardInterrupt:
        print()


def free_port(wanted):
    """Return *wanted*, or a port of the kernel's choice when somebody has that one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise SystemExit("demo: no free port")


def announce(port, how):
    print(f"\n  http://127.0.0.1:{port}/   {how}; Ctrl-C ends it\n", flush=True)


# -- the real thing: nginx in front, FastCGI behind


def behind_nginx(nginx, parameters, port):
    directory = Path(tempfile.mkdtemp(prefix="sapi-demo-"))
    configuration = directory / "nginx.conf"
    configuration.write_text(
        NGINX.format(
            user="user root;" if os.geteuid() == 0 else "",  # else it could not open the socket
            directory=directory,
            port=port,
            parameters=parameters,
        )
    )
    serve = [sys.executable, "-m", "sapi_adapters", "app:application"]
    serve += ["--socket", str(directory / "app.sock"), "--workers", "2"]
    serve += ["--chdir", str(HERE), "--extension", "lifecycle:lifecycle"]
    front = [nginx, "-e", "stderr", "-p", str(directory), "-c", str(configuration)]
    running = []
    try:
        # Groups of their own: Ctrl-C reaches this program, which ends them in order.
        for command, address in (
            (serve, str(directory / "app.sock")),
            (front, ("127.0.0.1", port)),
        ):
            running.append(subprocess.Popen(command, start_new_session=True))
            wait_for(address, running)
        announce(port, "nginx in front, fcgi-prefork behind")
        while all(process.poll() is None for process in running):
            time.sleep(0.2)
        raise SystemExit("demo: a server ended; what it said is above")
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


def wait_for(address, running, seconds=20.0):
    """Wait until somebody accepts at *address*, a Unix path or (host, port)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and all(process.poll() is None for process in running):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        with socket.socket(family) as probe:
            if probe.connect_ex(address) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("demo: a server did not start; what it said is above")


# -- without nginx: embedded in this program


def embedded(port):
    sys.path.insert(0, str(HERE))
    from app import application
    from lifecycle import lifecycle

    from sapi_adapters import Embed, register_extension

    register_extension(lifecycle, "lifecycle:lifecycle")

    class Bridge(http.server.BaseHTTPRequestHandler):
        """One request from the standard library's server to the embedded application."""

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            skipped = ("content-length", "connection", "transfer-encoding", "keep-alive")
            headers = [(n, v) for n, v in self.headers.items() if n.lower() not in skipped]
            response = host.stream(self.command, self.path, headers, body)
            self.send_response(response.status, response.reason)
            for name, value in response.headers:
                self.send_header(name, value)
            self.end_headers()
            for piece in response:
                self.wfile.write(piece)

        do_GET = do_HEAD = do_POST = answer

        def log_message(self, format, *arguments):
            """Say nothing: the page is the demonstration."""

    front = http.server.ThreadingHTTPServer(("127.0.0.1", port), Bridge)
    with Embed(application) as host, front:
        announce(port, "embedded, because nginx is not installed (apt install nginx)")
        front.serve_forever()


if __name__ == "__main__":
    main()
