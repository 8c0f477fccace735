"""Listening sockets: a Unix path, TCP, an inherited descriptor, systemd's, the web server's fd 0.

Only here are sockets bound, and socket files created and removed. A socket file that nobody
listens on is replaced, under a lock and after a refused connect; a live one never.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ..sapi import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

BACKLOG = 2048  # the kernel cuts it to net.core.somaxconn


class Listener:
    """A listening socket. ``accept()`` returns a descriptor and the peer's address.

    *path* is the socket file that :meth:`close` removes; None where it is not ours.
    """

    def __init__(self, listening: socket.socket, path: str | None = None) -> None:
        self.socket = listening
        self.fd = listening.fileno()
        self.family = int(listening.family)
        self.path = path
        self._inode = os.stat(path).st_ino if path is not None else None
        # socket.accept() without the Socket object around the descriptor: a third less.
        self.accept: Callable[[], tuple[int, Any]] = listening._accept  # type: ignore[attr-defined]
        self.allows: Callable[[Any], bool] | None = None
        """Judges a peer's address, where only some may connect (FCGI_WEB_SERVER_ADDRS)."""

    def describe(self) -> str:
        """Return the address as people write it: a path, or ``host:port``."""
        if self.family == socket.AF_UNIX:
            name = self.socket.getsockname()
            return os.fsdecode(name) or "an unnamed Unix socket"
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self, *, remove: bool = True) -> None:
        """Close; with *remove* also the socket file goes, if it is still this one's."""
        self.socket.close()
        if remove and self.path is not None:
            try:
                if os.stat(self.path).st_ino == self._inode:
                    os.unlink(self.path)
            except OSError:
                pass


def bind_unix(
    path: str, *, mode: int = 0o660, owner: str | None = None, group: str | None = None
) -> Listener:
    """Listen on the Unix socket *path*, created with *mode* and, if given, *owner* and *group*.

    Raises :class:`ConfigurationError` when somebody listens there, or it cannot be made.
    """
    lock = _lock(path)
    try:
        _remove_stale(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Nobody may connect before the mode is right, so it is born closed.
        before = os.umask(0o777)
        try:
            listening.bind(path)
        except OSError as error:
            listening.close()
            raise ConfigurationError(f"cannot listen on {path}: {error.strerror}") from error
        finally:
            os.umask(before)
        try:
            if owner is not None or group is not None:
                os.chown(path, _uid(owner), _gid(group))
            os.chmod(path, mode)
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            os.unlink(path)
            raise ConfigurationError(f"cannot set up {path}: {error.strerror}") from error
        except ConfigurationError:
            listening.close()
            os.unlink(path)
            raise
        return Listener(listening, path)
    finally:
        os.close(lock)


def _lock(path: str) -> int:
    """Lock the directory of *path*, so that two starts do not replace one another's socket."""
    directory = os.path.dirname(path) or "."
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {path}: {error.strerror}") from error
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _remove_stale(path: str) -> None:
    """Remove the socket file *path* if nobody listens on it any more."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigurationError(f"cannot listen on {path}: a file of another kind is there")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.settimeout(1.0)
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise ConfigurationError(f"cannot listen on {path}: {error}") from error
    else:
        raise ConfigurationError(f"cannot listen on {path}: another process listens there")
    finally:
        probe.close()


def _uid(owner: str | None) -> int:
    if owner is None:
        return -1
    try:
        return int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise ConfigurationError(f"there is no user {owner!r}") from None


def _gid(group: str | None) -> int:
    if group is None:
        return -1
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(f"there is no group {group!r}") from None


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``[v6]:port``, ``:port`` or ``port``.

    Raises :class:`ConfigurationError` for anything else. An empty host is every address.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigurationError(f"{text!r}: write an IPv6 address in brackets: [::1]:9000")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigurationError(f"{text!r} is no HOST:PORT")
    return host, int(port)


def bind_tcp(text: str) -> Listener:
    """Listen on the TCP address *text*, see :func:`parse_address`; 0 lets the kernel choose."""
    host, port = parse_address(text)
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ConfigurationError(f"cannot listen on {text}: {error.strerror}") from error
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if host else 0)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigurationError(f"cannot listen on {text}: {error.strerror}") from error
    return Listener(listening)


def is_listening(fd: int) -> bool:
    """Tell whether *fd* is a listening stream socket."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        probe = socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        return bool(probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
    finally:
        probe.detach()


def inherit(fd: int) -> Listener:
    """Take over the listening socket that the parent left on descriptor *fd*.

    Raises :class:`ConfigurationError` for anything that is no listening socket.
    """
    if not is_listening(fd):
        raise ConfigurationError(f"descriptor {fd} is no listening socket")
    # Its family is asked of the kernel, not guessed; the descriptor is taken, not duplicated.
    listening = socket.socket(fileno=fd)
    listening.set_inheritable(False)
    return Listener(listening)


def from_systemd() -> list[Listener]:
    """Return the sockets of systemd's socket activation; none when there are none for us.

    The variables are taken out of the environment, so that children do not think them theirs.
    """
    pid, count = os.environ.get("LISTEN_PID"), os.environ.get("LISTEN_FDS")
    if pid != str(os.getpid()) or count is None:
        return []
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if not count.isdigit():
        raise ConfigurationError(f"LISTEN_FDS is {count!r}, not a number")
    return [inherit(fd) for fd in range(3, 3 + int(count))]


def allow_web_servers(listeners: list[Listener], addresses: str | None) -> None:
    """Let only the *addresses* connect: FCGI_WEB_SERVER_ADDRS, a comma-separated list (S§3.2).

    None lets everybody. A list that does not parse is refused: it must not let anybody in.
    IPv4 addresses that come mapped into IPv6 are compared as what they are.
    """
    if addresses is None:
        return
    try:
        allowed = {ip_address(part.strip()) for part in addresses.split(",")}
    except ValueError as error:
        raise ConfigurationError(f"FCGI_WEB_SERVER_ADDRS: {error}") from error

    def allows(peer: Any) -> bool:
        if not isinstance(peer, tuple):
            return False
        address = ip_address(peer[0].partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address) in allowed

    for listener in listeners:
        listener.allows = allows
