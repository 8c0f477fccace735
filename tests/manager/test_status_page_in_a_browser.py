"""The HTML status page in a real browser: live, quiet, and deaf to what clients put into it."""

from __future__ import annotations

import dataclasses
import html
import http.server
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from manager.test_status import BUSY, IDLE, STATUS

from sapi_adapters.manager.status import Status, no_cache, render, security_policy

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "/<script>document.title='owned'</script>?a=\"&b='&amp;c\n<img src=x onerror=alert(1)>"


def changing(number: int) -> Status:
    """Return the status that is shown at request *number*."""
    return dataclasses.replace(
        STATUS,
        accepted_conn=1000 + 777 * number,
        listen_queue=number,
        last_failure="" if number < 2 else "<b>no module</b> named 'shop'",
        processes=(
            dataclasses.replace(IDLE, request_uri=HOSTILE),
            dataclasses.replace(BUSY, requests=500 + number, request_duration=2.5),
        ),
    )


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.asked.append(self.path)
        kind, body = render(changing(len(self.server.asked)), query)
        self.send_response(200 if path == "/status" else 404)
        for name, value in (*no_cache, ("Content-Security-Policy", self.server.policy)):
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    asked: list[str]
    policy: str

    def url(self, query: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/status?{query}"


@contextmanager
def serving_the_page(policy: str = security_policy) -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.asked, server.policy = [], policy
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def browse(profile: Path, url: str, *options: str) -> tuple[str, str]:
    """Return the page as it stands after ten seconds of the page's time, and the console."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("apt-get install chromium")
        pytest.skip("apt-get install chromium")
    process = subprocess.Popen(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-dev-shm-usage", "--disable-background-networking"),
            *("--enable-logging=stderr", f"--user-data-dir={profile}"),
            *("--virtual-time-budget=10000", "--dump-dom", *options, url),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # it has children of its own, which end with it
    )
    try:
        page, log = process.communicate(timeout=90)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    return page, "\n".join(line for line in log.splitlines() if "CONSOLE" in line)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, list[str]]:
    with serving_the_page() as server:
        page, console = browse(tmp_path_factory.mktemp("profile"), server.url("html&key=1"))
        return page, console, server.asked


def test_the_page_follows_later_answers(shown):
    page, _, asked = shown
    assert asked[0] == "/status?html&key=1"
    assert len(asked) >= 4 and set(asked[1:]) == {"/status?json&full&key=1"}
    number = int(re.findall(r"<h2>Listen queue</h2><strong>(\d+)</strong>", page)[0])
    last = changing(number)
    assert number >= 3  # 1 was the page itself
    assert f"<small>{last.accepted_conn:,} accepted</small>" in page
    assert f"<th>accepted conn</th><td>{last.accepted_conn}</td>" in page
    assert f'<td class="number">{last.processes[1].requests}</td>' in page
    assert re.search(r'<span class="state">Running, leaving</span>', page)
    assert re.search(r"<h2>Requests per second</h2><strong>[\d.,]+</strong>", page)
    assert page.count("<svg ") == 2 and page.count("<path ") == 4
    assert re.search(r'<p id="live" class="">\d\d:\d\d:\d\d</p>', page)


def test_nothing_is_complained_about_on_the_console(shown):
    """Neither by scripts nor by the policy: it allows all that the page does."""
    assert shown[1] == ""


def test_what_clients_sent_is_text(shown):
    page = shown[0]
    cell = re.search(r'<td class="uri"[^>]*>(.*?)</td>', page)
    assert cell is not None and "<" not in cell[1]
    assert html.unescape(cell[1]) == f"GET {HOSTILE}".replace("\n", "\ufffd")
    assert "<title>www · status</title>" in page
    assert "<img" not in page and page.count("<script>") == 1 + page.count('title="GET /<script>')
    assert "&lt;b&gt;no module&lt;/b&gt; named 'shop'" in page


def test_the_console_is_really_read(tmp_path):
    """With a policy that does not fit there is something on it, and nothing is drawn."""
    with serving_the_page("default-src 'none'") as server:
        page, console = browse(tmp_path, server.url("html"))
    assert "Content Security Policy" in console
    assert "<strong>" not in page.partition("<script>")[0]


def test_without_scripts_it_is_a_table(tmp_path):
    with serving_the_page(f"{security_policy}; sandbox") as server:  # which allows no scripts
        page, _ = browse(tmp_path, server.url("html&full"))
    assert server.asked == ["/status?html&full"]
    assert '<details id="all" class="card" open="">' in page
    assert "<th>last request memory</th>" in page
    assert "<td>POST</td>" in page and "&lt;script&gt;document.title" in page
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
