"""Runs Apache httpd with the configuration that the host gets, to compare the two.

``modules/mod_NAME.so`` below ServerRoot is Apache's module here and the host's own there, so one
text is for both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deployments import MissingServer, environment, require
from fronts import APACHE_MODULES, AS_WWW_DATA
from httpd.hosting import Hosted, free_port
from serving import until

_HEAD = """ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/apache.pid
ErrorLog {folder}/stderr.log
ServerName localhost
Listen 127.0.0.1:{port}
LoadModule mpm_prefork_module modules/mod_mpm_prefork.so
StartServers 1
MinSpareServers 1
MaxSpareServers 2
MaxRequestWorkers 2
"""


def find_apache() -> str:
    """The path of its program; where it is missing a CI run fails and others skip."""
    try:
        return require("apache")
    except MissingServer as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@contextmanager
def apache(folder: Path, text: str) -> Iterator[Hosted]:
    """Run Apache with the configuration *text*; *folder* is its ServerRoot."""
    program = find_apache()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "modules").symlink_to(APACHE_MODULES)
    port = free_port()
    file = folder / "httpd.conf"
    file.write_text(_HEAD.format(folder=folder, port=port) + text)
    command = [program, "-d", str(folder), "-f", str(file), "-DFOREGROUND"]
    if os.geteuid() == 0:
        command = [*AS_WWW_DATA, *command]
        shutil.chown(folder, "www-data")
    (folder / "stderr.log").touch(0o666)
    (folder / "stderr.log").chmod(0o666)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(),
            cwd=folder,
            start_new_session=True,  # it ends by a signal to its whole process group
        )
    running = Hosted(process, folder, port)
    try:
        until(
            lambda: "resuming normal operations" in running.log or process.poll() is not None,
            what="the start-up of Apache",
        )
        assert process.poll() is None, running.log + (folder / "output").read_text()
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
