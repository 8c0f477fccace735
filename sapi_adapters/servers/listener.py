"""Listening sockets: a Unix path, TCP, an inherited descriptor, systemd's, the web server's fd 0.

Only here are sockets bound, and socket files created and removed. A socket file that nobody
listens on is replaced, under a lock and after a refused connect; a live one never. A listener
may outlive the program: :func:`hand_over` before an exec, :func:`restore` after it.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import json
import os
import pwd
import socket
import stat
import sys
from ipaddress import ip_address
from struct import Struct
from typing import TYPE_CHECKING

from ..sapi import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from ipaddress import IPv4Address, IPv6Address
    from typing import Any

BACKLOG = 2048  # the kernel cuts it to net.core.somaxconn
_ANY_BACKLOG = 2**31 - 1  # what a negative one means to listen(2); Python would make it 0


class Listener:
    """A listening socket. ``accept()`` returns a descriptor and the peer's address.

    *path* is the socket file that :meth:`close` removes; None where it is not ours. *file* is
    its device and inode, when they are known already.
    """

    def __init__(
        self,
        listening: socket.socket,
        path: str | None = None,
        file: tuple[int, int] | None = None,
    ) -> None:
        self.socket = listening
        self.fd = listening.fileno()
        self.family = int(listening.family)
        # Absolute: a daemon changes its directory.
        self.path = None if path is None else os.path.abspath(path)
        # The socket holds on to its file, so the inode is not another's while this one lives.
        self._file = _identity(path) if path is not None and file is None else file
        self._diagnosis: _Diagnosis | None = None
        # socket.accept() without the Socket object around the descriptor: a third less.
        self.accept: Callable[[], tuple[int, Any]] = listening._accept  # type: ignore[attr-defined]
        self.allows: Callable[[Any], bool] | None = None
        """Judges a peer's address, where only some may connect."""
        self.allowed: tuple[str, ...] | None = None
        """The addresses that it lets in; None is everybody."""
        self.label = ""
        """What its owner knows it by, such as the address in the configuration."""

    def describe(self) -> str:
        """Return the address as people write it: a path, or ``host:port``."""
        if self.family == socket.AF_UNIX:
            name = self.socket.getsockname()
            return os.fsdecode(name) or "an unnamed Unix socket"
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def is_local(self) -> bool:
        """Tell whether only this machine's own programs can connect."""
        return self.family == socket.AF_UNIX or is_loopback(self.socket.getsockname()[0])

    def listens_on(self, address: str) -> bool:
        """Tell whether this is the socket that *address* means, a path or as for :func:`bind_tcp`.

        So one that systemd made finds the pool that it is for.
        """
        if self.family == socket.AF_UNIX:
            name = os.fsdecode(self.socket.getsockname())
            return "/" in address and os.path.abspath(address) == name
        if "/" in address:
            return False
        host, port = parse_address(address)
        own, own_port = self.socket.getsockname()[:2]
        if not host:
            return (own, own_port) in (("::", port), ("0.0.0.0", port))  # noqa: S104
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror:
            return False
        return (own, own_port) in {entry[4][:2] for entry in found}

    def lost(self) -> bool:
        """Tell whether the socket file is gone, or another's: nobody reaches this one any more."""
        if self.path is None:
            return False
        try:
            return _identity(self.path) != self._file
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False  # who may not look does not know

    def queue(self) -> tuple[int, int] | None:
        """Return how many connections wait to be accepted, and how many may.

        Needs no rights. None where the platform cannot tell: outside of Linux, and for a Unix
        socket where netlink is closed or the socket is of another network namespace.
        """
        if sys.platform != "linux":
            return None
        if self.family != socket.AF_UNIX:
            try:
                info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _tcp_info.size)
                waiting, limit = _tcp_info.unpack(info)
            except (OSError, ValueError):
                return None
            return waiting, limit
        # Replies go to a socket, not to a process: after a fork a child needs its own.
        if self._diagnosis is not None and self._diagnosis.pid != os.getpid():
            self._diagnosis.close()
            self._diagnosis = None
        try:
            if self._diagnosis is None:
                self._diagnosis = _Diagnosis(self.fd)
            return self._diagnosis.ask()
        except (OSError, ValueError):
            if self._diagnosis is not None:
                self._diagnosis.close()
                self._diagnosis = None
            return None

    def close(self, *, remove: bool = True) -> None:
        """Close; with *remove* also the socket file goes, if it is still this one's."""
        if self._diagnosis is not None:
            self._diagnosis.close()
            self._diagnosis = None
        # While the socket is open, nobody takes the file for a stale one: it is still ours.
        if remove and self.path is not None:
            try:
                if _identity(self.path) == self._file:
                    os.unlink(self.path)
            except OSError:
                pass
        self.socket.close()


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


# Of struct tcp_info: of a listening socket tcpi_unacked and tcpi_sacked are queue and limit.
_tcp_info = Struct("=24xII")


class _Diagnosis:
    """A question to the kernel about one Unix socket (sock_diag(7)), and the socket to ask by."""

    # struct nlmsghdr: length, type, flags, sequence, port
    _header = Struct("=IHHII")
    # struct unix_diag_req: family, protocol, padding, states, inode, what to show, any cookie
    _request = Struct("=BBHIIIII")
    # struct unix_diag_msg: family, type, state, padding, inode, cookie; attributes follow it
    _message = Struct("=BBBBIII")
    # struct nlattr: length, type; then, of UNIX_DIAG_RQLEN, struct unix_diag_rqlen
    _attribute = Struct("=HH")
    _lengths = Struct("=II")
    _BY_FAMILY, _REQUEST, _SHOW_LENGTHS, _LENGTHS = 20, 1, 0x10, 4
    _NETLINK_SOCK_DIAG = 4

    def __init__(self, fd: int) -> None:
        self.pid = os.getpid()
        inode = os.fstat(fd).st_ino & 0xFFFFFFFF
        any_cookie = 0xFFFFFFFF
        self._question = self._header.pack(
            self._header.size + self._request.size, self._BY_FAMILY, self._REQUEST, 1, 0
        ) + self._request.pack(
            socket.AF_UNIX, 0, 0, 0, inode, self._SHOW_LENGTHS, any_cookie, any_cookie
        )
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, self._NETLINK_SOCK_DIAG
        )

    def ask(self) -> tuple[int, int] | None:
        """Return queue and limit; the answer is there when the question was sent."""
        self._socket.sendto(self._question, (0, 0))
        answer = self._socket.recv(4096)
        if self._header.unpack_from(answer)[1] != self._BY_FAMILY:
            return None  # NLMSG_ERROR: not in this network namespace, or no module unix_diag
        at = self._header.size + self._message.size
        while at + self._attribute.size <= len(answer):
            length, kind = self._attribute.unpack_from(answer, at)
            if kind == self._LENGTHS and length == self._attribute.size + self._lengths.size:
                waiting, limit = self._lengths.unpack_from(answer, at + self._attribute.size)
                return waiting, limit
            at += max(self._attribute.size, length + 3 & ~3)
        return None

    def close(self) -> None:
        """Close what it asks by."""
        self._socket.close()


def bind_unix(
    path: str,
    *,
    mode: int = 0o660,
    owner: str | None = None,
    group: str | None = None,
    backlog: int = BACKLOG,
    acl_users: Iterable[str] = (),
    acl_groups: Iterable[str] = (),
) -> Listener:
    """Listen on the Unix socket *path*, created with *mode* and, if given, *owner* and *group*.

    *acl_users* and *acl_groups*, names or numbers, may connect beside those that *mode* lets in;
    it is an access list then, and *owner* and *group* have no effect. A negative *backlog* is
    the most that the kernel allows. Raises :class:`ConfigurationError` when somebody listens
    there, or it cannot be made.
    """
    users = sorted({_uid(name) for name in acl_users})
    groups = sorted({_gid(name) for name in acl_groups})
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
            # A path that is too long has no strerror.
            why = error.strerror or error
            raise ConfigurationError(f"cannot listen on {path}: {why}") from error
        finally:
            os.umask(before)
        try:
            if users or groups:
                _set_access_list(path, mode, users, groups)
            else:
                if owner is not None or group is not None:
                    os.chown(path, _uid(owner), _gid(group))
                os.chmod(path, mode)
            listening.listen(_ANY_BACKLOG if backlog < 0 else backlog)
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


# The access list as the file system keeps it, acl(5): a version, then tag, permissions and id of
# each entry, in the order of the tags.
_acl_version = Struct("<I")
_acl_entry = Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF
_CONNECT = 6  # connect(2) asks for the right to write; read goes with it as with mode 0660


def _set_access_list(path: str, mode: int, users: list[int], groups: list[int]) -> None:
    if not hasattr(os, "setxattr"):
        raise ConfigurationError(f"cannot set up {path}: access lists work on Linux only")
    own, own_group, other = mode >> 6 & 7, mode >> 3 & 7, mode & 7
    entries = [
        (_USER_OBJ, own, _NO_ID),
        *((_USER, _CONNECT, user) for user in users),
        (_GROUP_OBJ, own_group, _NO_ID),
        *((_GROUP, _CONNECT, group) for group in groups),
        (_MASK, own_group | _CONNECT, _NO_ID),
        (_OTHER, other, _NO_ID),
    ]
    value = _acl_version.pack(2) + b"".join(_acl_entry.pack(*entry) for entry in entries)
    try:
        # One step: the mode's bits are set with it.
        os.setxattr(path, "system.posix_acl_access", value)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise ConfigurationError(
            f"cannot set up {path}: its file system has no access lists; use owner and group"
        ) from error


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
    return -1 if owner is None else _id("user", owner, lambda: pwd.getpwnam(owner).pw_uid)


def _gid(group: str | None) -> int:
    return -1 if group is None else _id("group", group, lambda: grp.getgrnam(group).gr_gid)


def _id(kind: str, name: str, look_up: Callable[[], int]) -> int:
    # The highest number is -1, which would mean "leave it as it is".
    if name.isascii() and name.isdigit() and int(name) < 2**32 - 1:
        return int(name)
    try:
        return look_up()
    except KeyError:
        raise ConfigurationError(f"there is no {kind} {name!r}") from None


def is_loopback(address: str) -> bool:
    """Tell whether *address* is an IP address of the loopback interface."""
    try:
        found = ip_address(address)
    except ValueError:  # "unix:", as nginx has it, or nothing: nobody knows who it is
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


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


def bind_tcp(text: str, backlog: int = BACKLOG) -> Listener:
    """Listen on the TCP address *text*, see :func:`parse_address`; 0 lets the kernel choose.

    Without a host it is ``[::]``, which IPv4 peers reach, too; where there is no IPv6, 0.0.0.0.
    A negative *backlog* is the most that the kernel allows.
    """
    host, port = parse_address(text)
    try:
        if host:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            return listen_tcp(int(found[0][0]), found[0][4], backlog, v6_only=True)
        try:
            return listen_tcp(socket.AF_INET6, ("::", port), backlog, v6_only=False)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return listen_tcp(socket.AF_INET, ("0.0.0.0", port), backlog, v6_only=True)  # noqa: S104
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {text}: {error.strerror}") from error


def listen_tcp(family: int, address: Any, backlog: int, *, v6_only: bool) -> Listener:
    """Listen on *address*, as the socket module has it for *family*. Raises :class:`OSError`."""
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit it: a response leaves at once, whatever the peer still owes.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
        listening.bind(address)
        listening.listen(_ANY_BACKLOG if backlog < 0 else backlog)
    except OSError:
        listening.close()
        raise
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
    A socket's label is its FileDescriptorName.
    """
    pid, count = os.environ.get("LISTEN_PID"), os.environ.get("LISTEN_FDS")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or count is None:
        return []
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if not count.isdigit():
        raise ConfigurationError(f"LISTEN_FDS is {count!r}, not a number")
    listeners = [inherit(fd) for fd in range(3, 3 + int(count))]
    if len(names) == len(listeners):
        for each, name in zip(listeners, names, strict=True):
            each.label = name
    return listeners


def hand_over(listeners: Iterable[Listener]) -> str:
    """Return *listeners* as text for :func:`restore`, and let their descriptors live on.

    To be called right before an exec. When that fails, :func:`keep` takes it back.
    """
    found = []
    for each in listeners:
        each.socket.set_inheritable(True)
        found.append(
            {
                "fd": each.fd,
                "name": each.describe(),
                "path": each.path,
                "file": each._file,
                "allowed": each.allowed,
                "label": each.label,
            }
        )
    return json.dumps(found)


def keep(listeners: Iterable[Listener]) -> None:
    """Take back :func:`hand_over`: what this process starts does not get the descriptors."""
    for each in listeners:
        each.socket.set_inheritable(False)


def restore(text: str) -> list[Listener]:
    """Return what :func:`hand_over` gave *text* for, in the same order, in the new program.

    Raises :class:`ConfigurationError` when a descriptor is no longer what the text says.
    """
    listeners = []
    try:
        for found in json.loads(text):
            bare = inherit(found["fd"])
            name = bare.describe()
            if name != found["name"]:
                bare.socket.detach()
                raise ConfigurationError(
                    f"descriptor {found['fd']} listens on {name} and not on {found['name']}"
                )
            file = found["file"]
            one = Listener(bare.socket, found["path"], None if file is None else (file[0], file[1]))
            if found["allowed"] is not None:
                _allow([one], found["allowed"], "addresses handed over")
            one.label = found["label"]
            listeners.append(one)
    except (ValueError, TypeError, LookupError) as error:
        raise ConfigurationError(f"{text!r} describes no listening sockets") from error
    return listeners


def allow_web_servers(listeners: list[Listener], addresses: str | None) -> None:
    """Let only the *addresses* connect: FCGI_WEB_SERVER_ADDRS, a comma-separated list (S§3.2).

    None lets everybody. A list that does not parse is refused: it must not let anybody in. Unix
    sockets let nobody in then.
    """
    if addresses is not None:
        _allow(listeners, addresses.split(","), "FCGI_WEB_SERVER_ADDRS")


def allow_clients(
    listeners: Iterable[Listener],
    addresses: Iterable[str],
    name: str = "listen.allowed_clients",
) -> None:
    """Let only the *addresses* connect by TCP; an empty list lets everybody.

    Unix sockets are left alone, as php-fpm does: their peers have no address, and their files a
    mode. Raises :class:`ConfigurationError`, with *name*, for what is no IP address.
    """
    addresses = tuple(addresses)
    tcp = [each for each in listeners if each.family != socket.AF_UNIX]
    if addresses:
        _allow(tcp, addresses, name)
    else:
        for each in tcp:
            each.allows = each.allowed = None


def _allow(listeners: list[Listener], addresses: Iterable[str], name: str) -> None:
    """Compare whole addresses; IPv4 ones that come mapped into IPv6 as what they are.

    A link-local address without an interface (``fe80::1``) stands for it on every one.
    """
    try:
        allowed = {_plain(part.strip()): part.strip() for part in addresses}
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from error

    def allows(peer: Any) -> bool:
        if not isinstance(peer, tuple):
            return False
        address = _plain(peer[0])
        if address in allowed:
            return True
        host, interface, _ = peer[0].partition("%")
        return bool(interface) and _plain(host) in allowed

    for listener in listeners:
        listener.allows = allows
        listener.allowed = tuple(allowed.values())


def _plain(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address
