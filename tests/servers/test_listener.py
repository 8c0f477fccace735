"""Listening sockets: made, inherited, replaced when stale, never stolen."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastcgi_client import fetch
from serving import serving, until

from sapi_adapters.sapi import ConfigurationError
from sapi_adapters.servers import listener


def test_a_unix_socket_is_born_0660(tmp_path):
    path = str(tmp_path / "s")
    before = os.umask(0)
    try:
        made = listener.bind_unix(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    made.close()
    assert not os.path.exists(path)


def test_mode_owner_and_group_are_set(tmp_path):
    path = str(tmp_path / "s")
    made = listener.bind_unix(path, mode=0o600, owner=str(os.getuid()), group=str(os.getgid()))
    status = os.stat(path)
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, os.getuid())
    made.close()


@pytest.mark.parametrize(
    "who",
    [
        {"owner": "no-such-user"},
        {"group": "no-such-group"},
        {"acl_users": ["root", "no-such-user"]},
        {"acl_groups": ["no-such-group"]},
    ],
)
def test_unknown_owners_are_named_and_leave_nothing_behind(tmp_path, who):
    path = str(tmp_path / "s")
    with pytest.raises(ConfigurationError, match="no-such"):
        listener.bind_unix(path, **who)
    assert not os.path.exists(path)


def test_a_stale_socket_is_replaced(tmp_path):
    path = str(tmp_path / "s")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    made = listener.bind_unix(path)
    made.close()


def test_a_live_socket_is_never_stolen(tmp_path):
    path = str(tmp_path / "s")
    live = listener.bind_unix(path)
    inode = os.stat(path).st_ino
    with pytest.raises(ConfigurationError, match="another process listens"):
        listener.bind_unix(path)
    assert os.stat(path).st_ino == inode
    live.close()


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigurationError, match="another kind"):
        listener.bind_unix(str(path))
    assert path.read_text() == "data"


def test_close_removes_only_its_own_socket_file(tmp_path):
    path = str(tmp_path / "s")
    first = listener.bind_unix(path)
    os.unlink(path)
    second = listener.bind_unix(path)
    first.close()
    assert os.path.exists(path)
    second.close()


def test_a_missing_directory_is_one_clear_line(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot listen on .*No such file"):
        listener.bind_unix(str(tmp_path / "none" / "s"))


def test_a_path_that_is_too_long_is_one_clear_line(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot listen on .*: .*too long"):
        listener.bind_unix(str(tmp_path / ("x" * 108)))


def test_a_user_number_that_means_nobody_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no user '4294967295'"):
        listener.bind_unix(str(tmp_path / "s"), owner="4294967295")


# -- the socket file


def test_a_socket_file_is_lost_when_it_is_gone_or_anothers(tmp_path):
    path = str(tmp_path / "s")
    made = listener.bind_unix(path)
    assert not made.lost()
    os.unlink(path)
    assert made.lost()
    other = listener.bind_unix(path)
    assert made.lost()
    assert not other.lost()
    made.close()
    assert not other.lost()
    other.close()


def test_a_socket_file_is_lost_with_its_directory(tmp_path):
    (tmp_path / "run").mkdir()
    made = listener.bind_unix(str(tmp_path / "run" / "s"))
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert made.lost()
    (tmp_path / "run").write_text("")  # a file where the directory was
    assert made.lost()
    made.close()


def test_a_relative_path_is_still_right_in_another_directory(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    made = listener.bind_unix("s")
    monkeypatch.chdir("other")
    assert not made.lost()
    made.close()
    assert not (tmp_path / "s").exists()


def test_only_a_socket_file_of_ours_can_be_lost(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        inherited = listener.inherit(os.dup(listening.fileno()))
    os.unlink(path)
    assert not inherited.lost()
    inherited.close()
    tcp = listener.bind_tcp("127.0.0.1:0")
    assert not tcp.lost()
    tcp.close()


# -- access lists


@pytest.fixture
def open_directory():
    """A directory that everybody may enter, unlike tmp_path."""
    path = tempfile.mkdtemp()
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


def with_access_list(path: str, **options) -> listener.Listener:
    try:
        return listener.bind_unix(path, **options)
    except ConfigurationError as error:
        if os.environ.get("CI") and sys.platform == "linux":
            raise
        pytest.skip(str(error))


def test_an_access_list_is_what_was_asked_for(tmp_path):
    path = str(tmp_path / "s")
    made = with_access_list(path, acl_users=["4242", "17", "4242"], acl_groups=["9"])
    value = os.getxattr(path, "system.posix_acl_access")
    none = 2**32 - 1
    assert struct.unpack_from("<I", value) == (2,)
    assert list(struct.iter_unpack("<HHI", value[4:])) == [
        (0x01, 6, none),
        (0x02, 6, 17),
        (0x02, 6, 4242),
        (0x04, 6, none),
        (0x08, 6, 9),
        (0x10, 6, none),
        (0x20, 0, none),
    ]
    made.close()


def test_an_access_list_keeps_the_rest_of_the_mode(tmp_path):
    path = str(tmp_path / "s")
    made = with_access_list(path, mode=0o604, acl_users=["4242"])
    value = os.getxattr(path, "system.posix_acl_access")
    entries = {tag: rights for tag, rights, _ in struct.iter_unpack("<HHI", value[4:])}
    assert entries == {0x01: 6, 0x02: 6, 0x04: 0, 0x10: 6, 0x20: 4}
    made.close()


CONNECT = """
import os, socket, sys
path, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
with socket.socket(socket.AF_UNIX) as client:
    client.connect(path)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")
def test_an_access_list_lets_in_whom_it_names_and_nobody_else(open_directory):
    path = os.path.join(open_directory, "s")
    made = with_access_list(
        path, owner="root", acl_users=["nobody"], acl_groups=["3999998"], backlog=8
    )

    def connects(uid: int) -> bool:
        done = subprocess.run(
            [sys.executable, "-c", CONNECT, path, str(uid)], capture_output=True, timeout=30
        )
        assert done.returncode == 0 or b"PermissionError" in done.stderr
        return done.returncode == 0

    assert connects(pwd.getpwnam("nobody").pw_uid)
    assert connects(3999998)  # by its group
    assert not connects(3999999)
    made.close()


def test_a_file_system_without_access_lists_is_named(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "setxattr", refuse, raising=False)
    path = str(tmp_path / "s")
    with pytest.raises(ConfigurationError, match="no access lists; use owner and group"):
        listener.bind_unix(path, acl_users=["0"])
    assert not os.path.exists(path)


# -- the queue

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


def somaxconn() -> int:
    return int(Path("/proc/sys/net/core/somaxconn").read_text())


def bound(kind: str, tmp_path: Path, **options) -> listener.Listener:
    if kind == "unix":
        return listener.bind_unix(str(tmp_path / "s"), **options)
    return listener.bind_tcp(kind, **options)


KINDS = pytest.mark.parametrize("kind", ["unix", "127.0.0.1:0", "[::1]:0"])


@linux
@KINDS
def test_the_queue_tells_how_many_wait_and_how_many_may(tmp_path, kind):
    made = bound(kind, tmp_path, backlog=5)
    assert made.queue() == (0, 5)
    with ExitStack() as clients:
        for number in (1, 2, 3):
            client = clients.enter_context(socket.socket(made.family))
            client.connect(made.socket.getsockname())
            until(lambda number=number: made.queue() == (number, 5))
        connection, _ = made.accept()
        os.close(connection)
        assert made.queue() == (2, 5)
    made.close()
    assert made.queue() is None


@linux
@KINDS
@pytest.mark.parametrize(("options", "limit"), [({}, listener.BACKLOG), ({"backlog": -1}, 2**31)])
def test_the_kernel_cuts_the_backlog(tmp_path, kind, options, limit):
    made = bound(kind, tmp_path, **options)
    assert made.queue() == (0, min(limit, somaxconn()))
    made.close()


@linux
def test_without_netlink_the_queue_is_unknown(tmp_path, monkeypatch):
    made = bound("unix", tmp_path)
    real = socket.socket

    def filtered(family=-1, *arguments, **options):
        if family == socket.AF_NETLINK:  # what RestrictAddressFamilies= makes of it
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return real(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", filtered)
    assert made.queue() is None
    monkeypatch.undo()
    assert made.queue() == (0, min(listener.BACKLOG, somaxconn()))
    made.close()


@linux
def test_a_socket_that_the_kernel_does_not_find_has_no_queue(tmp_path, monkeypatch):
    """As it is with one that was made in another network namespace."""
    made = bound("unix", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda fd: os.stat_result([0] * 10))
        assert made.queue() is None
    made.close()


FORKED = """
import json, os, sys
from sapi_adapters.servers import listener

def netlink():
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    rows = [line.split() for line in open("/proc/net/netlink")]
    return sorted(found & {f"socket:[{row[-1]}]" for row in rows})

made = listener.bind_unix(sys.argv[1], backlog=4)
before, told = made.queue(), netlink()
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, json.dumps([made.queue(), netlink()]).encode())
    os._exit(0)
os.close(writer)
os.wait()
print(json.dumps([[before, told], json.loads(os.read(reader, 4096)), [made.queue(), netlink()]]))
"""


@linux
def test_a_forked_child_asks_by_a_socket_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path / "s")],
        stdout=subprocess.PIPE,
        check=True,
        timeout=30,
    )
    before, child, after = json.loads(done.stdout)
    assert before[0] == child[0] == after[0] == [0, 4]
    assert before[1] == after[1]  # kept
    assert len(before[1]) == len(child[1]) == 1
    assert before[1] != child[1]


# -- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        (":9000", ("", 9000)),
        ("9000", ("", 9000)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_addresses(text, address):
    assert listener.parse_address(text) == address


@pytest.mark.parametrize("text", ["", "localhost", "::1:80", "host:99999", "host:-1", "host:٣"])
def test_what_is_no_address(text):
    with pytest.raises(ConfigurationError):
        listener.parse_address(text)


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0"])
def test_tcp(text):
    made = listener.bind_tcp(text)
    assert made.describe().startswith(text[:-1])
    with pytest.raises(ConfigurationError, match="in use"):
        listener.bind_tcp(made.describe())
    made.close()


def test_without_a_host_both_families_get_in():
    made = listener.bind_tcp("0")
    if made.family != socket.AF_INET6:
        pytest.skip("there is no IPv6 here")
    port = made.socket.getsockname()[1]
    assert made.describe() == f"[::]:{port}"
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port), 10).close()
    made.close()


def test_without_ipv6_a_bare_port_is_ipv4(monkeypatch):
    real = socket.socket

    def without_ipv6(family=-1, *arguments, **options):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return real(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    made = listener.bind_tcp("0")
    assert made.describe().startswith("0.0.0.0:")
    made.close()


def test_a_bare_port_in_use_is_not_taken_half():
    """IPv4 alone must not be what comes of a port that somebody has for IPv6."""
    try:
        first = listener.bind_tcp("[::]:0")  # IPv6 only
    except ConfigurationError:
        pytest.skip("there is no IPv6 here")
    port = first.socket.getsockname()[1]
    with pytest.raises(ConfigurationError, match="in use"):
        listener.bind_tcp(str(port))
    first.close()


def test_only_listening_sockets_are_inherited():
    one, two = socket.socketpair()
    with one, two, pytest.raises(ConfigurationError, match="no listening socket"):
        listener.inherit(one.fileno())
    reader, writer = os.pipe()
    with pytest.raises(ConfigurationError):
        listener.inherit(reader)
    os.close(reader)
    os.close(writer)


def test_the_allow_list_compares_whole_addresses():
    made = listener.bind_tcp("127.0.0.1:0")
    listener.allow_web_servers([made], "127.0.0.1, ::2")
    allows = made.allows
    assert allows is not None
    assert allows(("127.0.0.1", 5))
    assert allows(("::ffff:127.0.0.1", 5, 0, 0))
    assert allows(("::2", 5, 0, 0))
    assert not allows(("::2:0", 5, 0, 0))  # CVE-2026-91768: 12 of 16 bytes were compared
    assert not allows(("127.0.0.2", 5))
    assert not allows("")  # a Unix socket has no address
    made.close()


def test_an_allow_list_that_does_not_parse_lets_nobody_in():
    with pytest.raises(ConfigurationError, match="FCGI_WEB_SERVER_ADDRS"):
        listener.allow_web_servers([], "127.0.0.1,nonsense")


def test_listed_addresses_are_compared_as_what_they_are():
    made = listener.bind_tcp("127.0.0.1:0")
    listener.allow_clients([made], ["::ffff:192.0.2.7", "fe80::1", "fe80::2%eth0", "2001:DB8::0:5"])
    allows = made.allows
    assert allows is not None
    assert allows(("192.0.2.7", 5))
    assert allows(("2001:db8::5", 5, 0, 0))
    assert allows(("fe80::1%eth1", 5, 0, 3))
    assert allows(("fe80::2%eth0", 5, 0, 2))
    assert not allows(("fe80::2%eth1", 5, 0, 3))
    assert not allows(("2001:db8::6", 5, 0, 0))
    made.close()


def test_allowed_clients_are_a_matter_of_tcp(tmp_path):
    unix, tcp = listener.bind_unix(str(tmp_path / "s")), listener.bind_tcp("127.0.0.1:0")
    listener.allow_clients([unix, tcp], ["192.0.2.7"])
    assert unix.allows is None
    assert tcp.allows is not None
    assert not tcp.allows(("127.0.0.1", 5))
    listener.allow_clients([unix, tcp], [])
    assert tcp.allows is None
    unix.close()
    tcp.close()


@pytest.mark.parametrize("address", ["localhost", "192.0.2.0/24", ""])
def test_allowed_clients_that_are_no_addresses_are_refused(address):
    with pytest.raises(ConfigurationError, match=r"listen\.allowed_clients: "):
        listener.allow_clients([], ["127.0.0.1", address])


# -- over an exec

EXEC = """
import json, os, sys
from sapi_adapters.servers import listener

if sys.argv[1] == "before":
    unix = listener.bind_unix(sys.argv[2])
    tcp = listener.bind_tcp("127.0.0.1:0")
    unix.label = "www"
    listener.allow_clients([tcp], ["127.0.0.1", "::2"])
    text = listener.hand_over([unix, tcp])
    os.execv(sys.executable, [*sys.orig_argv[:3], "after", text])
restored = listener.restore(sys.argv[2])
print(json.dumps([
    [each.fd, each.label, each.path, each.describe(), each.allowed, each.lost(),
     each.socket.get_inheritable(), each.allows and each.allows(("192.0.2.1", 5))]
    for each in restored
]))
os.unlink(restored[0].path)
second = listener.bind_unix(restored[0].path)
print(json.dumps([restored[0].lost(), second.lost()]))
restored[0].close()
print(json.dumps(second.lost()))
"""


def test_listeners_are_the_same_after_an_exec(tmp_path):
    path = str(tmp_path / "s")
    done = subprocess.run(
        [sys.executable, "-c", EXEC, "before", path], stdout=subprocess.PIPE, check=True, timeout=30
    )
    (unix, tcp), lost, second_lost = (json.loads(line) for line in done.stdout.splitlines())
    assert unix[1:] == ["www", path, path, None, False, False, None]
    assert tcp[1:3] == ["", None]
    assert tcp[3].startswith("127.0.0.1:")
    assert tcp[4:] == [["127.0.0.1", "::2"], False, False, False]
    assert lost == [True, False]  # the file it knows is the one from before the exec
    assert second_lost is False


def test_descriptors_are_inheritable_only_while_they_are_handed_over(tmp_path):
    made = listener.bind_unix(str(tmp_path / "s"))
    assert not made.socket.get_inheritable()
    listener.hand_over([made])
    assert made.socket.get_inheritable()
    listener.keep([made])
    assert not made.socket.get_inheritable()
    made.close()


def test_a_socket_file_that_went_meanwhile_is_lost_after_an_exec(tmp_path):
    path = str(tmp_path / "s")
    made = listener.bind_unix(path)
    text = listener.hand_over([made])
    os.unlink(path)
    made.socket.detach()
    (restored,) = listener.restore(text)
    assert restored.lost()
    second = listener.bind_unix(path)
    assert restored.lost()
    restored.close()
    assert not second.lost()
    second.close()


def test_a_descriptor_that_became_anothers_is_not_restored(tmp_path):
    first, second = (listener.bind_unix(str(tmp_path / name)) for name in "ab")
    text = listener.hand_over([first])
    first.close()
    os.dup2(second.fd, first.fd)
    with pytest.raises(ConfigurationError, match=r"listens on .*/b and not on .*/a"):
        listener.restore(text)
    os.close(first.fd)
    second.close()


@pytest.mark.parametrize("text", ["", "{}x", "[3]", '[{"fd": 0}]', '[{"fd": "x"}]', "7"])
def test_what_describes_no_listeners_is_refused(text):
    with pytest.raises(ConfigurationError):
        listener.restore(text)


@pytest.mark.parametrize(
    ("bound", "address", "same"),
    [
        ("127.0.0.1:{p}", "127.0.0.1:{p}", True),
        ("127.0.0.1:{p}", "127.0.0.1:1", False),
        ("127.0.0.1:{p}", "127.0.0.2:{p}", False),
        ("127.0.0.1:{p}", "{p}", False),
        ("127.0.0.1:{p}", "/run/{p}", False),
        ("0.0.0.0:{p}", "{p}", True),
        ("0.0.0.0:{p}", "127.0.0.1:{p}", False),
        ("[::1]:{p}", "[0:0::1]:{p}", True),
        ("[::1]:{p}", "[::]:{p}", False),
        ("{p}", ":{p}", True),
        ("{p}", "no-such-host.invalid:{p}", False),
    ],
)
def test_a_tcp_socket_knows_what_means_it(bound, address, same, monkeypatch):
    real = socket.getaddrinfo

    def numbers_only(host, *arguments, **options):
        return real(host, *arguments, **{**options, "flags": socket.AI_NUMERICHOST})

    made = listener.bind_tcp(bound.format(p=0))
    port = made.socket.getsockname()[1]
    monkeypatch.setattr(socket, "getaddrinfo", numbers_only)  # no question leaves this machine
    assert made.listens_on(address.format(p=port)) is same
    made.close()


def test_a_unix_socket_knows_what_means_it(tmp_path, monkeypatch):
    made = listener.bind_unix(str(tmp_path / "s"))
    monkeypatch.chdir(tmp_path)
    assert made.listens_on(f"{tmp_path}/./s")
    assert made.listens_on("./s")
    for other in (f"{tmp_path}/t", "9000", "s", "s:1"):
        assert not made.listens_on(other)
    made.close()


# -- started by others


def _spawned(script: str, **options) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), **options.pop("env", {})},
        **options,
    )


RUN = "from sapi_adapters import run; from server_apps import wsgi; run(wsgi)"


def test_descriptor_0_as_web_servers_start_it(tmp_path):
    """fd 0 listens, 1 and 2 are closed: one worker, this very process (mod_fcgid, lighttpd)."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        closed = f"import os; os.close(1); os.close(2); {RUN}"
        process = _spawned(closed, stdin=listening.fileno())
    try:
        answer = fetch(path, SCRIPT_NAME="/app.fcgi", PATH_INFO="/pid")
        assert int(answer.body) == process.pid
    finally:
        process.terminate()
        assert process.wait(10) == 0
    assert os.path.exists(path)  # it is the web server's


def test_descriptor_0_with_sapi_workers(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        process = _spawned(RUN, stdin=listening.fileno(), env={"SAPI_WORKERS": "2"})
    try:
        assert int(fetch(path, PATH_INFO="/pid").body) != process.pid
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_systemd_sockets(tmp_path):
    path = str(tmp_path / "s")
    activate = (
        "import os, socket, sys;"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen();"
        "os.dup2(s.fileno(), 3); os.set_inheritable(3, True);"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
        f"os.execv(sys.executable, [sys.executable, '-c', {RUN!r}])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", activate, path],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "WEB_CONCURRENCY": "1"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert fetch(path, PATH_INFO="/x").body == b"/x"
    finally:
        process.terminate()
        assert process.wait(10) == 0


NAMED = """
import os, socket, sys
from sapi_adapters.servers import listener
for fd in (3, 4):
    s = socket.socket(); s.listen()
    os.dup2(s.fileno(), fd + 10)
    s.close()
for fd in (3, 4):
    os.dup2(fd + 10, fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES=sys.argv[1])
print([each.label for each in listener.from_systemd()], os.environ.get("LISTEN_FDNAMES"))
"""


@pytest.mark.parametrize(("names", "labels"), [("a:b", ["a", "b"]), ("odd", ["", ""])])
def test_systemd_names_its_sockets(names, labels):
    done = subprocess.run(
        [sys.executable, "-c", NAMED, names],
        stdout=subprocess.PIPE,
        check=True,
        timeout=30,
        text=True,
    )
    assert done.stdout.strip() == f"{labels} None"


def test_an_inherited_descriptor_by_number(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "sapi_adapters", "server_apps:wsgi"]
            + ["--fd", str(listening.fileno())],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            pass_fds=[listening.fileno()],
            stderr=subprocess.DEVNULL,
        )
    try:
        assert fetch(path, PATH_INFO="/x").body == b"/x"
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_a_peer_that_is_not_listed_is_closed_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FCGI_WEB_SERVER_ADDRS", "192.0.2.1")
    options = ("--sapi", "fcgi-threaded", "--bind", "127.0.0.1:0")
    with serving(tmp_path, "server_apps:wsgi", *options) as served:
        where = served.text.split(", on ")[1].split()[0]
        host, port = where.split(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            assert connection.recv(1) == b""
