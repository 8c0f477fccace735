"""Files: the handler of last resort (core's default handler), with conditions and ranges.

RFC 9110 sections 8.8 (validators), 13 (conditional requests) and 14 (ranges). A file is opened so
that no symbolic link is followed which the configuration does not allow, whatever happened to the
path since the walk over its directories.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..protocols.http import http_date, parse_http_date
from .coreconfig import FOLLOW_SYMLINKS, SYMLINKS_IF_OWNER, dir_config, options_of
from .filters import (
    CONTENT_SET,
    EOS,
    FLUSH,
    PROTOCOL,
    Brigade,
    FileBucket,
    Filter,
    OutputFilter,
    blocks,
    insert_output,
)
from .hooks import OK

if TYPE_CHECKING:
    from .records import Request

MAX_RANGES, MAX_OVERLAPS, MAX_REVERSALS = 200, 20, 20
"""MaxRanges, MaxRangeOverlaps and MaxRangeReversals: whoever asks for more gets the whole file."""
BLOCKING = "blocking_filters"
"""In ``Host.provided``: the names of filters that never run on an event loop."""
_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
_SMALL = 65536


def default_handler(r: Request) -> int | Awaitable[int]:
    """Send the file that the request was mapped to. There are no listings of directories."""
    if r.method == "OPTIONS":
        if r.uri != "*":
            r.headers_out.set("Allow", ", ".join(sorted(r.allowed or _METHODS)))
        r.output_filters.pass_brigade([EOS])
        return OK
    if r.filename is None or r.finfo is None:
        r.log(f"File does not exist: {r.filename}", "info")
        return 404
    if stat.S_ISDIR(r.finfo.st_mode):
        r.log(f"Cannot serve directory {r.filename}: no DirectoryIndex is there")
        return 403
    if r.path_info and r.used_path_info is not True:
        r.log(f"File does not exist: {r.filename}{r.path_info}", "info")
        return 404
    if r.method not in ("GET", "HEAD"):
        r.allowed = _METHODS
        return 405
    return send_file(r, r.filename)


def send_file(r: Request, path: str, *, root: str | None = None) -> int | Awaitable[int]:
    """Answer with the regular file *path*; return what a handler returns.

    With *root* no link leads out of that directory (for paths that an application names). Header
    fields that are set already stay; conditions and ranges count for a status of 200 only.
    """
    try:
        fd = open_file(path, options_of(r), root)
    except OSError as error:
        return _refusal(r, path, error)
    whole = r
    while whole.main is not None:
        whole = whole.main  # its filters may hold the file for longer than the subrequest
    whole.cleanup(partial(os.close, fd))
    finfo = os.fstat(fd)
    if not stat.S_ISREG(finfo.st_mode):
        r.log(f"{path} is no regular file")
        return 403
    size = finfo.st_size
    r.headers_out.unset("Content-Length")
    asked = None
    if r.status == 200:
        _describe(r, finfo)
        if r.method in ("GET", "HEAD"):
            result = meets_conditions(r)
            if result == 304:
                r.status = 304
                r.output_filters.pass_brigade([EOS])
                return OK
            if result != OK:
                return result
        asked = _asked_range(r)
    if r.content_languages and "Content-Language" not in r.headers_out:
        r.headers_out.set("Content-Language", ", ".join(r.content_languages))
    brigade: Brigade = [FileBucket(fd, 0, size), EOS] if size else [EOS]
    if r.output_filters.type <= CONTENT_SET:
        if asked is not None:
            insert_output(r, BYTERANGE.name).context = asked
        if size <= _SMALL and not _may_block(r):
            return _pass(r, brigade)
        return r.in_thread(partial(_pass, brigade=brigade))
    if r.header_only:
        r.headers_out.set("Content-Length", str(size))
    elif asked is not None:
        ranges = parse_ranges(asked, size)
        if ranges is not None:
            if not ranges:
                r.err_headers_out.set("Content-Range", f"bytes */{size}")
                return 416
            brigade = _ranged(r, brigade, size, ranges)
    if not r.connection.asynchronous:
        return _pass(r, brigade)
    if dir_config(r).sendfile:
        r.output_filters.pass_brigade(brigade)
        return OK if size <= _SMALL else _until_taken(r)
    return _pass_in_turns(r, brigade)


def _may_block(r: Request) -> bool:
    """Whether one of the filters may wait for something: their modules say so by name."""
    names = r.host.provided.get(BLOCKING)
    at: Filter | None = r.output_filters
    while names and at is not None:
        if at.name in names:
            return True
        at = at.next
    return False


def _pass(r: Request, brigade: Brigade) -> int:
    if dir_config(r).sendfile:
        r.output_filters.pass_brigade(brigade)
    else:
        for part in _in_memory(r, brigade):
            r.output_filters.pass_brigade(part)
    return OK


async def _until_taken(r: Request) -> int:
    """The request lasts as long as its file: a worker that ends waits for it."""
    await r.drained()
    return OK


async def _pass_in_turns(r: Request, brigade: Brigade) -> int:
    for part in _in_memory(r, brigade):
        r.output_filters.pass_brigade(part)
        await r.drained()
        if r.aborted:
            break
    return OK


def _in_memory(r: Request, brigade: Brigade) -> Any:
    """Yield *brigade* in parts in which there are no files (EnableSendfile Off)."""
    size = _size(brigade)
    if size > _SMALL and r.output_filters.type > CONTENT_SET:
        r.headers_out.set("Content-Length", str(size))
    held: Brigade = []
    for bucket in brigade:
        if isinstance(bucket, FileBucket) and not r.header_only:
            for block in blocks(bucket):
                held.append(block)
                if size > _SMALL:
                    yield held
                    held = []
        elif not isinstance(bucket, FileBucket):
            held.append(bucket)
    yield held


def _size(brigade: Brigade) -> int:
    return sum(len(each) for each in brigade if isinstance(each, (bytes, FileBucket)))


# -- opening --------------------------------------------------------------------------------------

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""A FIFO in the file's place makes nobody wait."""
_STEP = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_AT_FDCWD = -100
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 2, 4, 8  # RESOLVE_*, linux/openat2.h


def open_file(path: str, options: frozenset[str], root: str | None = None) -> int:
    """Return a descriptor of the file *path* for reading; links are followed as *options* say.

    These are the Options of the file's own directory, and count for the whole path: where one
    above it is a link that only its own section allows, this refuses. With *root* it is opened
    below that directory, and SymLinksIfOwnerMatch allows no link. Raises :class:`OSError`, with
    ELOOP for a link that is not allowed.
    """
    follows = FOLLOW_SYMLINKS in options and SYMLINKS_IF_OWNER not in options
    if root is None and follows:
        return os.open(path, _OPEN)
    by_steps = SYMLINKS_IF_OWNER in options and not follows
    openat2 = None if by_steps else _openat2()
    if root is None:
        if openat2 is not None:
            return openat2(_AT_FDCWD, os.fsencode(path), _NO_SYMLINKS)
        inner, start = path[1:], os.open("/", _STEP)
    else:
        inner = os.path.relpath(os.path.normpath(path), root)
        if inner == ".." or inner.startswith("../"):
            raise OSError(errno.EXDEV, f"not below {root}", path)
        start = os.open(root, _STEP)
    try:
        if openat2 is None:
            return _open_by_steps(start, inner, by_owner=by_steps and root is None)
        resolve = _BENEATH | _NO_MAGICLINKS | (0 if follows else _NO_SYMLINKS)
        return openat2(start, os.fsencode(inner), resolve)
    finally:
        os.close(start)


def _open_by_steps(start: int, path: str, *, by_owner: bool) -> int:
    """Open *path* below the directory *start* one name at a time, with no links between.

    With *by_owner* links are followed to what belongs to the same user, whatever is put in the
    link's or its target's place meanwhile: at worst that is another thing of the same user's.
    """
    *directories, name = path.split("/")
    at = os.dup(start)
    try:
        for each in directories:
            if each not in ("", "."):
                inner = _step(at, each, _STEP, by_owner)
                os.close(at)
                at = inner
        return _step(at, name, _OPEN, by_owner)
    finally:
        os.close(at)


def _step(directory: int, name: str, flags: int, by_owner: bool) -> int:
    if name == "..":
        raise OSError(errno.ELOOP, "Symbolic link not allowed", name)
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)
    except OSError as error:
        # A link where a directory should be is ENOTDIR.
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
    link = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(link.st_mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
    if by_owner:
        fd = os.open(name, flags, dir_fd=directory)
        if os.fstat(fd).st_uid == link.st_uid:
            return fd
        os.close(fd)
    raise OSError(errno.ELOOP, "Symbolic link not allowed", name)


@lru_cache(maxsize=1)
def _openat2() -> Callable[[int, bytes, int], int] | None:
    """Return openat2(directory, path, resolve) of Linux 5.6 and later; None where there is none."""
    if sys.platform != "linux" or os.uname().machine == "alpha":
        return None
    try:
        import ctypes

        class How(ctypes.Structure):
            _fields_ = (
                ("flags", ctypes.c_uint64),
                ("mode", ctypes.c_uint64),
                ("resolve", ctypes.c_uint64),
            )

        syscall = ctypes.CDLL(None, use_errno=True).syscall
    except (ImportError, OSError, AttributeError):
        return None
    syscall.restype = ctypes.c_long
    syscall.argtypes = [
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.POINTER(How),
        ctypes.c_size_t,
    ]

    def openat2(directory: int, path: bytes, resolve: int) -> int:
        how = How(_OPEN, 0, resolve)
        for _ in range(10):
            fd = int(syscall(437, directory, path, ctypes.byref(how), ctypes.sizeof(how)))
            if fd >= 0:
                return fd
            code = ctypes.get_errno()
            if code not in (errno.EINTR, errno.EAGAIN):  # EAGAIN: something was renamed meanwhile
                break
        raise OSError(code, os.strerror(code), os.fsdecode(path))

    try:
        os.close(openat2(_AT_FDCWD, b"/", _NO_SYMLINKS))
    except OSError:
        return None  # an old kernel, or a sandbox that does not know it
    return openat2


def _refusal(r: Request, path: str, error: OSError) -> int:
    """Return the status for a file that cannot be opened."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return 404
    if error.errno == errno.ELOOP:
        r.log(f"Symbolic link not allowed: {path}")
        return 403
    r.log(f"{path}: file permissions deny server access: {error.strerror}")
    return 403 if error.errno in (errno.EACCES, errno.EPERM, errno.EXDEV) else 500


# -- validators and conditions --------------------------------------------------------------------


def _describe(r: Request, finfo: os.stat_result) -> None:
    """Set ETag, Last-Modified and Accept-Ranges, unless somebody did."""
    headers = r.headers_out
    r.mtime = finfo.st_mtime
    if "Last-Modified" not in headers:
        headers.set("Last-Modified", http_date(min(finfo.st_mtime, r.request_time)))
    if "ETag" not in headers:
        tag = make_etag(finfo, dir_config(r).etag, r.request_time)
        if tag is not None:
            headers.set("ETag", tag)
    headers.set("Accept-Ranges", "bytes")


def make_etag(finfo: os.stat_result, parts: tuple[str, ...], now: float) -> str | None:
    """Return the ETag of a file, as Apache makes it; *parts* are FileETag's words.

    It is weak for a file that was changed within the last second: it may change again unseen.
    """
    if not parts:
        return None
    values = {"inode": finfo.st_ino, "size": finfo.st_size, "mtime": finfo.st_mtime_ns // 1000}
    tag = "-".join(f"{values[part]:x}" for part in ("inode", "size", "mtime") if part in parts)
    return f'W/"{tag}"' if now - finfo.st_mtime <= 1.0 else f'"{tag}"'


_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def meets_conditions(r: Request) -> int:
    """Return OK, 304 or 412 by the conditions of the request (RFC 9110 §13.2.2).

    They are about the ETag and Last-Modified in ``headers_out``.
    """
    asked, headers = r.headers_in, r.headers_out
    tag = headers.get("ETag")
    if "If-Match" in asked:
        wanted = asked.all("If-Match")
        if wanted != ["*"] and not (tag and tag[0] == '"' and tag in _tags(wanted)):
            return 412
    elif "If-Unmodified-Since" in asked:
        since, modified = _date(asked, "If-Unmodified-Since"), _date(headers, "Last-Modified")
        if since is not None and modified is not None and modified > since:
            return 412
    reads = r.method in ("GET", "HEAD")
    if "If-None-Match" in asked:
        wanted = asked.all("If-None-Match")
        weak = tag and tag.removeprefix("W/")
        if wanted == ["*"] or (weak and weak in (w.removeprefix("W/") for w in _tags(wanted))):
            return 304 if reads else 412
    elif reads and "If-Modified-Since" in asked:
        since, modified = _date(asked, "If-Modified-Since"), _date(headers, "Last-Modified")
        if since is not None and modified is not None and modified <= since:
            return 304
    return OK


def _tags(fields: list[str]) -> list[str]:
    return _TAG.findall(", ".join(fields))


def _date(table: Any, name: str) -> float | None:
    text = table.get(name)
    return None if text is None else parse_http_date(text)


# -- ranges ---------------------------------------------------------------------------------------


def _asked_range(r: Request) -> str | None:
    """Return the Range field if it is to be obeyed: for GET, and as If-Range says."""
    asked = r.headers_in
    if "Range" not in asked or r.method != "GET":
        return None
    ranges, condition = asked.all("Range"), asked.get("If-Range")
    if len(ranges) != 1:
        return None
    if condition is not None:
        if condition[-1:] == '"':
            if condition.startswith("W/") or condition != r.headers_out.get("ETag"):
                return None
        else:
            # A date is no strong validator within the second it names (§8.8.2.2).
            modified = _date(r.headers_out, "Last-Modified")
            if modified is None or parse_http_date(condition) != modified:
                return None
            if int(r.request_time) <= modified:
                return None
    return ranges[0]


_RANGE = re.compile(r"[ \t]*([0-9]*)-([0-9]*)[ \t]*")


def parse_ranges(text: str, size: int) -> list[tuple[int, int]] | None:
    """Return the ranges of a Range field, first and last byte, that a body of *size* bytes has.

    None when the field is to be ignored: another unit, malformed, too many ranges, an empty body.
    An empty list: none can be satisfied.
    """
    unit, equals, rest = text.partition("=")
    if unit.strip(" \t").lower() != "bytes" or not equals or not size:
        return None
    pieces = rest.split(",")
    if len(pieces) > MAX_RANGES:
        return None
    found: list[tuple[int, int]] = []
    for piece in pieces:
        match = _RANGE.fullmatch(piece)
        if match is None:
            return None
        first, last = _number(match[1]), _number(match[2])
        if first is None:
            if last is None:
                return None
            if last:
                found.append((max(0, size - last), size - 1))
        elif last is not None and last < first:
            return None
        elif first < size:
            found.append((first, size - 1 if last is None else min(last, size - 1)))
    if sum(second < first for first, second in pairwise(found)) > MAX_REVERSALS:
        return None
    overlaps, end = 0, -1
    for begin, last in sorted(found):
        overlaps += begin <= end
        end = max(end, last)
    return None if overlaps > MAX_OVERLAPS else found


def _number(digits: str) -> int | None:
    if not digits:
        return None
    return int(digits) if len(digits) < 19 else 1 << 62


def _ranged(r: Request, brigade: Brigade, size: int, ranges: list[tuple[int, int]]) -> Brigade:
    """Return what of *brigade*, a whole body of *size* bytes, is in *ranges*, as a 206 has it."""
    r.status, r.status_line = 206, None
    r.headers_out.unset("Content-Length")
    if len(ranges) == 1:
        first, last = ranges[0]
        r.headers_out.set("Content-Range", f"bytes {first}-{last}/{size}")
        return [*_slice(brigade, first, last + 1), EOS]
    boundary = os.urandom(8).hex()
    kind = r.headers_out.get("Content-Type") or r.content_type
    r.headers_out.unset("Content-Type")
    r.content_type = f"multipart/byteranges; boundary={boundary}"
    line = f"Content-Type: {kind}\r\n" if kind else ""
    parts: Brigade = []
    for first, last in ranges:
        head = f"\r\n--{boundary}\r\n{line}Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
        parts += [head.encode("latin-1", "replace"), *_slice(brigade, first, last + 1)]
    return [*parts, f"\r\n--{boundary}--\r\n".encode(), EOS]


def _slice(brigade: Brigade, begin: int, end: int) -> Brigade:
    """Return the bytes from *begin* to before *end* of what is in *brigade*."""
    taken: Brigade = []
    at = 0
    for bucket in brigade:
        if not isinstance(bucket, (bytes, FileBucket)):
            continue
        first, last = max(begin - at, 0), min(end - at, len(bucket))
        at += len(bucket)
        if first >= last:
            continue
        if isinstance(bucket, FileBucket):
            taken.append(FileBucket(bucket.fd, bucket.offset + first, last - first))
        else:
            taken.append(bucket[first:last])
    return taken


def byterange(f: Filter, brigade: Brigade) -> None:
    """Obey Range where filters come first, if they leave a body whose size is known.

    They show by removing Accept-Ranges that the bytes are no longer the file's. What cannot be
    satisfied is then answered with the whole, as the file's size says nothing.
    """
    r = f.request
    f.remove()
    if (
        brigade
        and brigade[-1] is EOS
        and FLUSH not in brigade
        and r.status == 200
        and "Accept-Ranges" in r.headers_out
    ):
        size = _size(brigade)
        ranges = parse_ranges(f.context, size)
        if ranges:
            brigade = _ranged(r, brigade, size, ranges)
    f.pass_on(brigade)


BYTERANGE = OutputFilter("BYTERANGE", byterange, PROTOCOL - 1)
"""It comes just before HTTP's own filter, which is of the type PROTOCOL."""
FILTERS: tuple[OutputFilter, ...] = (BYTERANGE,)
