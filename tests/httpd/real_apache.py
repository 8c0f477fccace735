"""Runs Debian's Apache with the same configuration as the host, to compare the two."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from fronts import APACHE_MODULES, AS_WWW_DATA, find
from httpd.hosting import free_port
from processes import Process


def loads(modules: Sequence[str]) -> str:
    """LoadModule lines that both Apache and the host take."""
    return "".join(f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so\n" for name in modules)


def _command(folder: Path, modules: Sequence[str], text: str, port: int) -> list[str]:
    program = find("apache")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("apache2 is missing: apt-get install apache2", pytrace=False)
        pytest.skip("apache2 is missing: apt-get install apache2")
    (folder / "run").mkdir(exist_ok=True)
    path = folder / "apache.conf"
    path.write_text(
        f"ServerRoot {folder}\nDefaultRuntimeDir {folder}/run\nPidFile {folder}/run/pid\n"
        f"ServerName localhost\nListen 127.0.0.1:{port}\nErrorLog {folder}/apache.log\n"
        f"StartServers 1\nThreadsPerChild 4\nServerLimit 1\nMaxRequestWorkers 4\n"
        f"{loads(['mpm_event', *modules])}{text}\n"
    )
    return [program, "-d", str(folder), "-f", str(path)]


def accepted(folder: Path, modules: Sequence[str], text: str) -> bool:
    """Whether Apache takes a configuration."""
    command = [*_command(folder, modules, text, 8000), "-t"]
    return subprocess.run(command, capture_output=True, timeout=30).returncode == 0


@contextmanager
def apache(folder: Path, modules: Sequence[str], text: str) -> Iterator[tuple[str, int]]:
    """Run Apache in *folder*; gives its address."""
    port = free_port()
    command = [*_command(folder, modules, text, port), "-DFOREGROUND"]
    if os.geteuid() == 0:
        command = [*AS_WWW_DATA, *command]
    process = Process(command, folder / "apache.out", more_logs=[folder / "apache.log"])
    try:
        process.wait_for(("127.0.0.1", port))
        yield ("127.0.0.1", port)
    finally:
        process.stop()
