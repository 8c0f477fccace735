"""mod_xsendfile: an application names a file, and the host sends it.

With ``XSendFile On`` a response of any application, program or backend that has a field
``X-Sendfile`` gets the file's content for its body, with ranges and conditions as any file has.
The field itself never reaches the client. Only what lies below a directory of ``XSendFilePath`` is
sent: links lead nowhere else, and are followed only where FollowSymLinks is on. A relative name is
one below any of these directories.

The value is the file's name as it is, as mod_xsendfile 0.12 takes it. Unlike there the directory
of the script is allowed no more than others. Left out are XSendFileUnescape,
X-Sendfile-Temporary, and XSendFileIgnoreEtag and XSendFileIgnoreLastModified: the application's
own fields count.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..filters import RESOURCE, Brigade, Filter, OutputFilter
from ..hooks import DECLINED, OK, REALLY_FIRST
from ..module import (
    ACCESS_CONF,
    FLAG,
    ITERATE,
    OR_FILEINFO,
    RSRC_CONF,
    Command,
    Module,
    Settings,
    setter,
)
from ..static import send_file

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request

FIELD = "X-Sendfile"


class Config(Settings):
    """What is configured for a section."""

    enabled = False
    roots: tuple[tuple[str, str], ...] = ()
    """Directories, as they are written and without symbolic links."""

    def merged(self, new: Config) -> Config:
        """Directories come to those that are allowed outside."""
        result: Config = super().merged(new)
        result.roots = self.roots + new.roots
        return result


def _path(cmd: Parameters, config: Config, path: str) -> str | None:
    if not os.path.isabs(path) or not os.path.isdir(path):
        return f"XSendFilePath: {path} is no directory with an absolute path"
    config.roots += ((os.path.normpath(path), os.path.realpath(path)),)
    return None


class Found:
    """What the response to a request says."""

    name: str | None = None
    """The file whose content takes the place of the body."""
    served = False
    """The handler of the application runs, or has run."""


def _filter(f: Filter, brigade: Brigade) -> None:
    """Take the field out of the head; where there is one, drop the body."""
    r = f.request
    found: Found = r.request_config[xsendfile_module]
    if found.name is not None:
        return
    for table in (r.err_headers_out, r.headers_out):
        name = table.get(FIELD)
        if name is not None:
            table.unset(FIELD)
            if r.status == 200:
                found.name = name
    if found.name is None:
        f.remove()
        f.pass_on(brigade)


def _insert(r: Request) -> None:
    config: Config = r.per_dir_config[xsendfile_module]
    if config.enabled and r.request_config.get(xsendfile_module) is None:
        r.request_config[xsendfile_module] = Found()
        r.add_output_filter("XSENDFILE")


def _handler(r: Request) -> int | Awaitable[int]:
    """Let the others handle the request, then send what they named: only here can that wait."""
    found: Found | None = r.request_config.get(xsendfile_module)
    if found is None or found.served:
        return DECLINED
    found.served = True
    return _serve(r, found)


async def _serve(r: Request, found: Found) -> int:
    result: Any = DECLINED
    for function in r.host.hooks.handler:
        result = function(r)
        if result.__class__ is not int:
            result = await result  # None is as good as OK
        if result != DECLINED:
            break
    if result or found.name is None:
        return result or OK
    r.status_line = None  # it was the application's; the file may make it another one
    _remove_filter(r)
    sent = _send(r, found.name)
    return sent if isinstance(sent, int) else await sent


def _remove_filter(r: Request) -> None:
    at: Filter | None = r.output_filters
    while at is not None and at.function is not _filter:
        at = at.next
    if at is not None:
        at.remove()


def _send(r: Request, name: str) -> int | Awaitable[int]:
    config: Config = r.per_dir_config[xsendfile_module]
    path = os.fsdecode(name.encode("latin-1"))
    if "\0" in path or not path:
        r.log(f"{FIELD}: {name!a} names no file")
        return 404
    for written, real in config.roots:
        inside = path
        if os.path.isabs(path):
            root = next((root for root in (written, real) if _below(path, root)), None)
            if root is None:
                continue
            inside = path[len(root.rstrip("/")) + 1 :]
        elif not os.path.lexists(os.path.join(real, path)):
            continue
        if ".." in inside.split("/"):
            break
        return send_file(r, os.path.join(real, inside), root=real)
    else:
        if not os.path.isabs(path):
            r.log(f"{FIELD}: {path!a} is below no XSendFilePath")
            return 404
    r.log(f"{FIELD}: {path!a} is not below any XSendFilePath")
    return 403


def _below(path: str, root: str) -> bool:
    return path.startswith(root.rstrip("/") + "/")


def _register_filters(host: Host) -> int:
    host.register_output_filter(OutputFilter("XSENDFILE", _filter, RESOURCE))
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("check_config", _register_filters)
    hooks.add("insert_filter", _insert)
    hooks.add("handler", _handler, order=REALLY_FIRST)


_ANYWHERE = RSRC_CONF | ACCESS_CONF
xsendfile_module = Module(
    "mod_xsendfile",
    commands=(
        Command("XSendFile", setter("enabled"), FLAG, _ANYWHERE | OR_FILEINFO, "On or Off"),
        Command("XSendFilePath", _path, ITERATE, _ANYWHERE, "directories"),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=_register,
)
