"""TLS in the host: certificates by name, clients' certificates, and what is wrong with either."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpd.hosting import Hosted, hosting

from sapi_adapters.httpd.host import Host
from sapi_adapters.sapi import ConfigurationError

if shutil.which("openssl") is None and not os.environ.get("CI"):
    pytest.skip("openssl makes the certificates: apt install openssl", allow_module_level=True)

APP = """
import json, os

def app(environ, start_response):
    body = environ["wsgi.input"].read()
    told = {name: value for name, value in environ.items() if name.startswith("SSL_")}
    told.update(size=len(body), scheme=environ["wsgi.url_scheme"], https=environ.get("HTTPS"),
                port=environ["SERVER_PORT"], host=environ["SERVER_NAME"])
    data = json.dumps(told).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [data]


def large(environ, start_response):
    start_response("200 OK", [])
    return (bytes([n % 251]) * 70000 for n in range(100))


async def asgi(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["scheme"]})
        while (event := await receive())["type"] != "websocket.disconnect":
            await send({**event, "type": "websocket.send"})
        return
    assert scope["type"] == "http", scope["type"]
    body = json.dumps([scope["scheme"], scope["extensions"].get("tls")]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
CONFIGURATION = """
LoadModule ssl_module mod_ssl
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
DocumentRoot {folder}/files
<Location /app>
    SetHandler sapi-script
    SapiApp tls_app:app
    LimitRequestBody 0
</Location>
<Location /all>
    SetHandler sapi-script
    SapiApp tls_app:app
    SSLOptions +StdEnvVars
</Location>
<Location /large>
    SetHandler sapi-script
    SapiApp tls_app:large
</Location>
<Location /asgi>
    SetHandler sapi-script
    SapiApp tls_app:asgi
    SSLOptions +ExportCertData +StdEnvVars
</Location>
<VirtualHost *>
    ServerName a.test
    SSLEngine on
    SSLCertificateFile {certificates}/a.test.pem
    SSLCertificateKeyFile {certificates}/a.test.key
</VirtualHost>
<VirtualHost *>
    ServerName b.test
    ServerAlias *.b.test
    SSLEngine on
    SSLCertificateFile {certificates}/b.test.pem
    SSLCertificateKeyFile {certificates}/b.test.key
    SSLCACertificateFile {certificates}/ca.pem
    SSLVerifyClient require
</VirtualHost>
<VirtualHost *>
    ServerName c.test
    SSLEngine on
    SSLCertificateFile {certificates}/c.test.pem
    SSLCertificateKeyFile {certificates}/c.test.key
    SSLCertificateChainFile {certificates}/between.pem
    SSLCACertificateFile {certificates}/ca.pem
    SSLVerifyClient optional
    SSLProtocol all -TLSv1.3
    SSLHonorCipherOrder on
    SSLCipherSuite ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384
</VirtualHost>
<VirtualHost *>
    ServerName plain.test
</VirtualHost>
"""


# -- certificates ---------------------------------------------------------------------------------


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


def issue(folder: Path, name: str, subject: str, issuer: str, extensions: str) -> None:
    """Make name.key and name.pem in *folder*, signed by *issuer*, or by itself without one."""
    (folder / f"{name}.ext").write_text(extensions)
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    keyed = (*curve, "-keyout", f"{name}.key", "-subj", subject, "-utf8")
    openssl(folder, "req", "-new", *keyed, "-out", f"{name}.csr")
    by = ("-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-CAcreateserial")
    signed = by if issuer else ("-signkey", f"{name}.key")
    out = ("-out", f"{name}.pem", "-days", "30", "-extfile", f"{name}.ext")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, *out)


AUTHORITY = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    issue(folder, "ca", "/CN=Test CA", "", AUTHORITY)
    issue(folder, "between", "/CN=Between", "ca", AUTHORITY)
    issue(folder, "a.test", "/CN=a.test", "ca", "subjectAltName=DNS:a.test")
    issue(folder, "b.test", "/CN=b.test", "ca", "subjectAltName=DNS:b.test,DNS:*.b.test")
    issue(folder, "c.test", "/CN=c.test", "between", "subjectAltName=DNS:c.test")
    person = "/C=DE/O=Müller, Söhne/CN=Eva/emailAddress=eva@test"
    issue(folder, "client", person, "ca", "subjectAltName=DNS:eva.test,email:eva@test")
    issue(folder, "stranger", "/CN=Stranger", "", "basicConstraints=CA:FALSE")
    issue(folder, "of-between", "/CN=Through", "between", "basicConstraints=CA:FALSE")
    encrypt = ("-passout", "pass:secret", "-aes128", "-out", "encrypted.key")
    openssl(folder, "ec", "-in", "a.test.key", *encrypt)
    return folder


def context(certificates: Path, client: str | None = None, **changes: Any) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if client is not None:
        made.load_cert_chain(certificates / f"{client}.pem", certificates / f"{client}.key")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def opened(
    host: Hosted, made: ssl.SSLContext, name: str | None = "a.test", **options: Any
) -> ssl.SSLSocket:
    plain = socket.create_connection(host.address, 15)
    try:
        if name is None:
            made.check_hostname = False
        return made.wrap_socket(plain, server_hostname=name, **options)
    except BaseException:
        plain.close()
        raise


def ask(
    host: Hosted,
    made: ssl.SSLContext,
    path: str = "/app",
    name: str | None = "a.test",
    said: str | None = None,
    **options: Any,
) -> tuple[http.client.HTTPResponse, bytes]:
    """Return the response to a request to the host *said*, over a connection to *name*."""
    with opened(host, made, name, **options) as connected:
        return on(connected, path, said or name or "a.test")


def on(
    connected: ssl.SSLSocket, path: str, said: str = "a.test", body: bytes | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    method = "GET" if body is None else "POST"
    length = "" if body is None else f"Content-Length: {len(body)}\r\n"
    connected.sendall(f"{method} {path} HTTP/1.1\r\nHost: {said}\r\n{length}\r\n".encode())
    if body:
        connected.sendall(body)
    response = http.client.HTTPResponse(connected)
    response.begin()
    return response, response.read()


# -- hosts ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["prefork", "worker", "event"])
def host(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificates: Path,
) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "tls_app.py").write_text(APP)
    (folder / "files").mkdir()
    (folder / "files" / "large.bin").write_bytes(LARGE)
    (folder / "files" / "small.txt").write_bytes(b"small\n")
    text = CONFIGURATION.format(folder=folder, certificates=certificates)
    with hosting(folder, text, request.param) as hosted:
        yield hosted


LARGE = bytes(range(256)) * 20000


def test_requests_on_one_connection(host: Hosted, certificates: Path) -> None:
    with opened(host, context(certificates)) as connected:
        for size in (0, 5, 3_000_000, 1):
            response, body = on(connected, "/app", body=bytes(size))
            assert response.status == 200
            told = json.loads(body)
            assert told["size"] == size
            assert (told["scheme"], told["https"]) == ("https", "on")
            assert told["SSL_TLS_SNI"] == "a.test"


def test_files_and_responses_in_pieces_in_turn(host: Hosted, certificates: Path) -> None:
    with opened(host, context(certificates)) as connected:
        asked = b"".join(
            b"GET %s HTTP/1.1\r\nHost: a.test\r\n\r\n" % path
            for path in (b"/large.bin", b"/small.txt", b"/large", b"/large.bin", b"/app")
        )
        connected.sendall(asked)
        file = connected.makefile("rb")
        bodies = []
        for _ in range(5):
            status = file.readline()
            assert status.startswith(b"HTTP/1.1 200 "), status
            fields = dict(
                line.lower().strip().split(b": ", 1) for line in iter(file.readline, b"\r\n")
            )
            if b"content-length" in fields:
                bodies.append(file.read(int(fields[b"content-length"])))
            else:
                found = b""
                while size := int(file.readline(), 16):
                    found += file.read(size)
                    file.readline()
                file.readline()
                bodies.append(found)
        assert bodies[0] == LARGE
        assert bodies[1] == b"small\n"
        assert bodies[2] == b"".join(bytes([n % 251]) * 70000 for n in range(100))
        assert bodies[3] == LARGE
        assert json.loads(bodies[4])["SSL_PROTOCOL"] == "TLSv1.3"


def test_a_slow_reader_gets_everything(host: Hosted, certificates: Path) -> None:
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(15)
    plain.connect(host.address)
    with context(certificates).wrap_socket(plain, server_hostname="a.test") as connected:
        for path, wanted in (("/large.bin", LARGE), ("/small.txt", b"small\n")):
            assert on(connected, path)[1] == wanted


def test_the_end_is_told(host: Hosted, certificates: Path) -> None:
    options = {"suppress_ragged_eofs": False}  # an end without close_notify is an error then
    with opened(host, context(certificates), **options) as connected:
        connected.sendall(b"GET /small.txt HTTP/1.0\r\nHost: a.test\r\n\r\n")
        data = b""
        while block := connected.recv(65536):
            data += block
        assert data.endswith(b"\r\n\r\nsmall\n")


def test_http_1_1_is_negotiated(host: Hosted, certificates: Path) -> None:
    made = context(certificates)
    made.set_alpn_protocols(["h2", "http/1.1"])
    with opened(host, made) as connected:
        assert connected.selected_alpn_protocol() == "http/1.1"


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("a.test", "a.test"),
        ("b.test", "b.test"),
        ("X.b.test", "b.test"),
        ("c.test", "c.test"),
        ("unknown.test", "a.test"),
        (None, "a.test"),
    ],
)
def test_the_name_chooses_the_certificate(
    host: Hosted, certificates: Path, name: str | None, subject: str
) -> None:
    made = context(certificates, "client", check_hostname=False)
    with opened(host, made, name) as connected:
        certificate = connected.getpeercert()
        assert certificate is not None
        assert certificate["subject"] == ((("commonName", subject),),)
        response, _ = on(connected, "/app", subject)
        assert response.status == 200


def test_a_request_for_a_host_that_asks_for_more_is_misdirected(
    host: Hosted, certificates: Path
) -> None:
    for name in ("a.test", None, "unknown.test"):
        made = context(certificates, "client", check_hostname=False)
        response, _ = ask(host, made, name=name, said="b.test")
        assert response.status == 421
    assert ask(host, context(certificates), said="plain.test")[0].status == 421
    assert ask(host, context(certificates), said="A.TEST:443")[0].status == 200


# -- clients' certificates ------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("client", [None, "stranger", "of-between"])
def test_who_has_no_certificate_of_ours_is_refused(
    host: Hosted, certificates: Path, client: str | None, version: ssl.TLSVersion
) -> None:
    made = context(certificates, client, maximum_version=version)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(host, made, name="b.test")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_clients_certificate_is_told(
    host: Hosted, certificates: Path, version: ssl.TLSVersion
) -> None:
    made = context(certificates, "client", maximum_version=version)
    told = json.loads(ask(host, made, "/all", "b.test")[1])
    name = "emailAddress=eva@test,CN=Eva,O=Müller\\, Söhne,C=DE"
    assert told["SSL_CLIENT_S_DN"].encode("latin-1").decode() == name
    assert told["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert told["SSL_CLIENT_S_DN_CN"] == "Eva"
    assert told["SSL_CLIENT_S_DN_Email"] == "eva@test"
    assert told["SSL_CLIENT_I_DN"] == "CN=Test CA"
    assert told["SSL_CLIENT_SAN_DNS_0"] == "eva.test"
    assert told["SSL_CLIENT_SAN_Email_0"] == "eva@test"
    assert told["SSL_CLIENT_V_REMAIN"] == "29"
    assert told["SSL_PROTOCOL"] == ("TLSv1.2" if version == ssl.TLSVersion.TLSv1_2 else "TLSv1.3")
    assert told["SSL_SESSION_RESUMED"] == "Initial"
    assert "SSL_CLIENT_CERT" not in told
    assert "SSL_CLIENT_S_DN" not in json.loads(ask(host, made, "/app", "b.test")[1])


def test_a_certificate_may_be_optional(host: Hosted, certificates: Path) -> None:
    told = json.loads(ask(host, context(certificates), "/all", "c.test")[1])
    assert told["SSL_CLIENT_VERIFY"] == "NONE"
    assert "SSL_CLIENT_S_DN" not in told
    assert told["SSL_PROTOCOL"] == "TLSv1.2"
    assert told["SSL_CIPHER"] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    assert (told["SSL_CIPHER_USEKEYSIZE"], told["SSL_CIPHER_EXPORT"]) == ("256", "false")
    told = json.loads(ask(host, context(certificates, "client"), "/all", "c.test")[1])
    assert told["SSL_CLIENT_VERIFY"] == "SUCCESS"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(host, context(certificates, "stranger"), "/all", "c.test")


def test_what_is_sent_beside_a_certificate_is_not_trusted(host: Hosted, certificates: Path) -> None:
    """The chain of c.test is an authority, too, but not one for clients."""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(host, context(certificates, "of-between"), "/all", "c.test")


def test_a_session_is_resumed(host: Hosted, certificates: Path) -> None:
    made = context(certificates, "client", maximum_version=ssl.TLSVersion.TLSv1_2)
    with opened(host, made, "b.test") as connected:
        on(connected, "/all", "b.test")
        session = connected.session
    told = json.loads(ask(host, made, "/all", "b.test", session=session)[1])
    assert told["SSL_SESSION_RESUMED"] == "Resumed"
    assert told["SSL_CLIENT_S_DN_CN"] == "Eva"


def test_asgi_applications_are_told(host: Hosted, certificates: Path) -> None:
    made = context(certificates, "client")
    scheme, tls = json.loads(ask(host, made, "/asgi", "b.test")[1])
    assert scheme == "https"
    assert tls["tls_version"] == 0x0304
    assert tls["client_cert_name"].startswith("emailAddress=eva@test,CN=Eva,")
    assert tls["client_cert_error"] is None
    assert tls["client_cert_chain"][0] == ssl.DER_cert_to_PEM_cert(
        ssl.PEM_cert_to_DER_cert((certificates / "client.pem").read_text())
    )
    with opened(host, made, "b.test") as connected:
        der = connected.getpeercert(binary_form=True)
        assert der is not None
        assert ssl.PEM_cert_to_DER_cert(tls["server_cert"]) == der


# -- what is no TLS -------------------------------------------------------------------------------


def test_plain_http_gets_a_hint(host: Hosted) -> None:
    answer = host.get("/app", Host="a.test")
    assert answer.status == 400
    assert b"speaking plain HTTP to an SSL-enabled server port" in answer.body
    assert answer.getheader("Connection") == "close"


def test_plain_http_with_a_body_gets_a_hint(host: Hosted) -> None:
    answer = host.request("POST", "/app", bytes(100000), {"Host": "a.test"})
    assert answer.status == 400


@pytest.mark.parametrize(
    "data",
    [b"\0" * 100, b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\xff\xff", b"\x80\x2e\x01\0\2"],
    ids=["zeros", "no hello", "too long", "SSLv2"],
)
def test_what_is_neither_is_closed(host: Hosted, certificates: Path, data: bytes) -> None:
    with socket.create_connection(host.address, 15) as plain:
        plain.sendall(data)
        plain.shutdown(socket.SHUT_WR)
        found = b""
        try:
            while block := plain.recv(65536):
                found += block
        except ConnectionResetError:
            pass
        assert b"HTTP" not in found
    assert ask(host, context(certificates))[0].status == 200


def test_a_failed_handshake_ends_the_connection(host: Hosted) -> None:
    with socket.create_connection(host.address, 15) as plain:
        plain.sendall(b"\x16\x03\x01\x00\x05hello")
        while plain.recv(65536):  # nobody waits for us to go
            pass


def test_a_handshake_may_come_byte_by_byte(host: Hosted, certificates: Path) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = context(certificates).wrap_bio(incoming, outgoing, server_hostname="a.test")
    with socket.create_connection(host.address, 15) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def give() -> None:
            for byte in outgoing.read():
                plain.sendall(bytes([byte]))

        while True:
            try:
                made.do_handshake()
                break
            except ssl.SSLWantReadError:
                give()
                incoming.write(plain.recv(65536))
        made.write(b"GET /small.txt HTTP/1.0\r\nHost: a.test\r\n\r\n")
        give()
        data = b""
        while not data.endswith(b"small\n"):
            try:
                data += made.read(65536)
            except ssl.SSLWantReadError:
                block = plain.recv(65536)
                assert block, data
                incoming.write(block)
        assert b" 200 OK\r\n" in data


def test_old_protocols_are_refused(host: Hosted) -> None:
    said = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{host.port}", "-tls1_1"],
        input=b"",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert said.returncode != 0


def test_a_websocket_within_tls(host: Hosted, certificates: Path) -> None:
    client = pytest.importorskip("websockets.sync.client")
    pytest.importorskip("wsproto")
    if "event" not in (host.folder / "httpd.conf").read_text():
        pytest.skip("WebSockets are the event MPM's")
    url = f"wss://a.test:{host.port}/asgi"
    plain = socket.create_connection(host.address, 15)
    with client.connect(url, sock=plain, ssl=context(certificates)) as websocket:
        assert websocket.recv(15) == "wss"
        websocket.send("x" * 100000)
        assert websocket.recv(15) == "x" * 100000


# -- the start ------------------------------------------------------------------------------------


def made(certificates: Path, text: str) -> Host:
    host = Host(text=f"LoadModule ssl_module mod_ssl\n{text}", root=str(certificates))
    host.configure()
    host.open()
    return host


GOOD = "SSLEngine on\nSSLCertificateFile a.test.pem\nSSLCertificateKeyFile a.test.key\n"


def test_listen_may_name_the_protocol(certificates: Path) -> None:
    assert made(certificates, f"Listen 127.0.0.1:8443 https\n{GOOD}").listen == ["127.0.0.1:8443"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SSLEngine maybe", "SSLEngine must be On or Off"),
        ("SSLEngine on", "there is no SSLCertificateFile"),
        ("SSLCertificateFile none.pem", "does not exist or is empty"),
        (GOOD.replace("a.test.key", "b.test.key"), "SSL of the main server: .*mismatch"),
        (GOOD.replace("a.test.key", "encrypted.key"), "encrypted.key is encrypted"),
        (GOOD.replace("a.test.key", "ca.pem"), "SSL of the main server"),
        (f"{GOOD}SSLVerifyClient require", "SSLVerifyClient needs SSLCACertificateFile"),
        ("SSLVerifyClient optional_no_ca", "must be none, optional or require"),
        ("SSLProtocol +SSLv3", "SSLv3 is obsolete"),
        ("SSLProtocol TLSv1.1", "TLSv1.1 is obsolete"),
        ("SSLProtocol SSLv4", "Illegal protocol 'SSLv4'"),
        ("SSLProtocol all -TLSv1.2 -TLSv1.3", "leaves no protocol"),
        ("SSLCipherSuite NONSENSE", "no cipher of 'NONSENSE'"),
        ("SSLCipherSuite TLSv1.3 TLS_AES_128_GCM_SHA256", "OpenSSL's own"),
        ("SSLOptions +FakeBasicAuth", "FakeBasicAuth is not one of"),
        ("<Location /x>\nSSLVerifyClient require\n</Location>", "not allowed"),
    ],
)
def test_mistakes(certificates: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        made(certificates, text)


@pytest.mark.parametrize(
    ("text", "lowest", "highest"),
    [
        ("", "TLSv1_2", "TLSv1_3"),
        ("SSLProtocol all -SSLv3 -TLSv1 -TLSv1.1", "TLSv1_2", "TLSv1_3"),
        ("SSLProtocol -all +TLSv1.3", "TLSv1_3", "TLSv1_3"),
        ("SSLProtocol TLSv1.2", "TLSv1_2", "TLSv1_2"),
    ],
)
def test_protocols(certificates: Path, text: str, lowest: str, highest: str) -> None:
    host = made(certificates, f"{GOOD}{text}")
    tls = host.provided["ssl"][host.main].tls
    assert tls.minimum_version.name == lowest
    assert tls.maximum_version.name == highest


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_the_key_is_read_before_privileges_are_dropped(certificates: Path, mpm: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "files").mkdir()
        (folder / "files" / "small.txt").write_bytes(b"small\n")
        shutil.copy(certificates / "a.test.key", folder / "a.test.key")
        (folder / "a.test.key").chmod(stat.S_IRUSR)
        text = (
            f"User nobody\nGroup nogroup\nLoadModule ssl_module mod_ssl\nSSLEngine on\n"
            f"SSLCertificateFile {certificates}/a.test.pem\n"
            f"SSLCertificateKeyFile {folder}/a.test.key\nDocumentRoot {folder}/files\n"
        )
        with hosting(folder, text, mpm) as host:
            response, body = ask(host, context(certificates), "/small.txt")
            assert (response.status, body) == (200, b"small\n")
            pids = host.workers()
            assert {os.stat(f"/proc/{pid}").st_uid for pid in pids} != {0}
