"""Files: the handler of last resort (core's default handler), with ranges and conditions."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from .filters import EOS, FileBucket, OutputFilter
from .hooks import DECLINED, OK

if TYPE_CHECKING:
    from .records import Request

FILTERS: tuple[OutputFilter, ...] = ()


def default_handler(r: Request) -> int:
    """Send the file that the request was mapped to."""
    if r.filename is None or r.finfo is None:
        return 404
    if stat.S_ISDIR(r.finfo.st_mode):
        return DECLINED
    if r.method not in ("GET", "HEAD"):
        r.allowed = frozenset(("GET", "HEAD", "OPTIONS"))
        return 405
    fd = os.open(r.filename, os.O_RDONLY)
    r.cleanup(lambda: os.close(fd))
    r.output_filters.pass_brigade([FileBucket(fd, 0, r.finfo.st_size), EOS])
    return OK
