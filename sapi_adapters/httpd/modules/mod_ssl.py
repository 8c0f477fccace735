"""mod_ssl: TLS, by the standard library's ssl.

A connection's certificate, client verification, protocols and ciphers are those of the virtual
host that its ClientHello names (SNI); a request on it for another one that asks for more is
refused with 421. Keys are read in post_config, before privileges are dropped.

Other than in httpd: ``all`` in SSLProtocol is TLSv1.2 and TLSv1.3, and older ones cannot be had
(RFC 8996); SSLVerifyClient, SSLCipherSuite and SSLProtocol are a server's, never a directory's, as
there is no renegotiation; SSLVerifyClient optional_no_ca, cipher suites of TLSv1.3, revocation
lists, OCSP stapling, session caches (tickets are on) and encrypted keys are not there.
SSL_PROTOCOL, SSL_CIPHER, SSL_CLIENT_VERIFY and SSL_TLS_SNI are always in a request's environment;
the others with ``SSLOptions +StdEnvVars``, certificates with ``+ExportCertData``. Of the server's
certificate there is only SSL_SERVER_CERT.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from typing import TYPE_CHECKING, Any

from ...sapi import ConfigurationError
from ..environ import SOFTWARE
from ..hooks import DECLINED, FIRST, OK
from ..module import (
    ACCESS_CONF,
    FLAG,
    OR_OPTIONS,
    RSRC_CONF,
    TAKE1,
    TAKE12,
    TAKE_ARGV,
    Command,
    Module,
    Settings,
)

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Connection, Request, Server

PROVIDED = "ssl"
"""The key in ``Host.provided``: a dict from each server with SSLEngine on to its context."""

_VERSIONS = {"tlsv1.2": ssl.TLSVersion.TLSv1_2, "tlsv1.3": ssl.TLSVersion.TLSv1_3}
_OBSOLETE = frozenset(("sslv2", "sslv3", "tlsv1", "tlsv1.1"))
_VERIFY = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "require": ssl.CERT_REQUIRED,
}
_PLAIN_HINT = (
    "Reason: You're speaking plain HTTP to an SSL-enabled server port.<br>\n"
    "Instead use the HTTPS scheme to access this URL, please."
)
_BLOCK = 65536


class Config(Settings):
    """What is configured for a server."""

    engine = False
    certificates: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    """Each belongs to the certificate of the same place; without one it is in that file."""
    chain: str | None = None
    authorities: str | None = None
    verify = "none"
    protocols = frozenset(_VERSIONS)
    ciphers: str | None = None
    own_order = False

    def demands(self) -> tuple[Any, ...]:
        """Return what a connection was held to: requests of another server need the same."""
        return (
            self.engine,
            self.verify,
            self.verify != "none" and self.authorities,
            self.protocols,
            self.ciphers,
        )


class DirConfig(Settings):
    """What is configured for a section: SSLOptions."""

    options: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()

    def merged(self, new: DirConfig) -> DirConfig:
        result: DirConfig = super().merged(new)
        if "options" not in new.__dict__:
            result.options = (self.options | new.added) - new.removed
        return result


# -- directives -----------------------------------------------------------------------------------


def _engine(cmd: Parameters, config: Config, value: str) -> str | None:
    if value.lower() not in ("on", "off"):
        return "SSLEngine must be On or Off; an upgrade within HTTP (optional) is not there"
    config.engine = value.lower() == "on"
    return None


def _file(name: str, *, several: bool) -> Any:
    def store(cmd: Parameters, config: Config, path: str) -> str | None:
        path = cmd.server_path(path)
        try:
            size = os.stat(path).st_size
        except OSError:
            size = 0
        if not size:
            directive = cmd.directive.name
            return f"{directive}: file '{path}' does not exist or is empty"
        before = config.__dict__.get(name, ())
        setattr(config, name, (*before, path) if several else path)
        return None

    return store


def _verify(cmd: Parameters, config: Config, value: str) -> str | None:
    if value.lower() not in _VERIFY:
        return f"SSLVerifyClient must be none, optional or require, not {value}"
    config.verify = value.lower()
    return None


def _protocol(cmd: Parameters, config: Config, words: list[str]) -> str | None:
    found: set[str] = set()
    for word in words:
        sign, name = (word[0], word[1:].lower()) if word[0] in "+-" else ("", word.lower())
        if name == "all":
            wanted = set(_VERSIONS)
        elif name in _VERSIONS:
            wanted = {name}
        elif name in _OBSOLETE and sign == "-":
            continue
        elif name in _OBSOLETE:
            return f"SSLProtocol: {word} is obsolete and cannot be had (RFC 8996)"
        else:
            return f"SSLProtocol: Illegal protocol '{word}'"
        if sign == "-":
            found -= wanted
        elif sign == "+":
            found |= wanted
        else:
            found = wanted
    if not found:
        return "SSLProtocol leaves no protocol"
    config.protocols = frozenset(found)
    return None


def _ciphers(cmd: Parameters, config: Config, first: str, second: str | None) -> str | None:
    if second is not None and first.upper() != "SSL":
        return f"SSLCipherSuite: the suites of {first} are OpenSSL's own; only SSL's can be set"
    config.ciphers = second or first
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(config.ciphers)
    except ssl.SSLError:
        return f"SSLCipherSuite: no cipher of {config.ciphers!r} can be had"
    return None


def _own_order(cmd: Parameters, config: Config, value: bool) -> None:
    config.own_order = value


_OPTIONS = {"stdenvvars": "StdEnvVars", "exportcertdata": "ExportCertData"}


def _options(cmd: Parameters, config: DirConfig, words: list[str]) -> str | None:
    for word in words:
        name = _OPTIONS.get(word.lstrip("+-").lower())
        if name is None:
            return f"SSLOptions: {word} is not one of {', '.join(_OPTIONS.values())}"
        if word[0] == "+":
            config.added |= {name}
            config.removed -= {name}
        elif word[0] == "-":
            config.removed |= {name}
            config.added -= {name}
        else:
            config.options = config.__dict__.get("options", frozenset()) | {name}
    if "options" in config.__dict__:
        config.options = (config.options | config.added) - config.removed
    return None


# -- contexts -------------------------------------------------------------------------------------


class Context:
    """What the connections to one server share."""

    def __init__(self, server: Server, config: Config) -> None:
        self.config = config
        self.server = server
        self.certificate = ""
        try:
            self.tls = self._made(config)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ConfigurationError(f"SSL of {_name(server)}: {error}") from error

    def _made(self, config: Config) -> ssl.SSLContext:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        versions = sorted(_VERSIONS[name] for name in config.protocols)
        tls.minimum_version, tls.maximum_version = versions[0], versions[-1]
        tls.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        if config.own_order:
            tls.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        else:
            tls.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        if config.ciphers is not None:
            tls.set_ciphers(config.ciphers)
        tls.set_alpn_protocols(["http/1.1"])
        if not config.certificates:
            raise ValueError("SSLEngine is on, and there is no SSLCertificateFile")
        for index, certificate in enumerate(config.certificates):
            key = config.keys[index] if index < len(config.keys) else certificate
            _load(tls, certificate, key, config.chain)
        self.certificate = _first_certificate(config.certificates[0])
        if config.verify != "none":
            if config.authorities is None:
                raise ValueError("SSLVerifyClient needs SSLCACertificateFile")
            tls.load_verify_locations(config.authorities)
        tls.verify_mode = _VERIFY[config.verify]
        tls.sni_callback = _note_name
        return tls


def _load(tls: ssl.SSLContext, certificate: str, key: str, chain: str | None) -> None:
    def encrypted() -> str:
        raise ValueError(f"{key} is encrypted: nobody is asked for its pass phrase")

    if chain is None:
        tls.load_cert_chain(certificate, key, encrypted)
        return
    # OpenSSL takes the certificate and those above it from one file. (Those that are merely
    # trusted would be sent, too, but then clients' certificates below them would be accepted.)
    with tempfile.NamedTemporaryFile("w", encoding="latin-1", suffix=".pem") as joined:
        for each in (certificate, chain):
            with open(each, encoding="latin-1") as file:
                joined.writelines(f"{pem}\n" for pem in _certificates(file.read()))
        joined.flush()
        tls.load_cert_chain(joined.name, key, encrypted)


_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def _certificates(text: str) -> list[str]:
    """Return the certificates in *text*, which may hold a private key as well."""
    return [
        f"{_BEGIN}{part.partition(_END)[0]}{_END}"
        for part in text.split(_BEGIN)[1:]
        if _END in part
    ]


def _first_certificate(path: str) -> str:
    with open(path, encoding="latin-1") as file:
        found = _certificates(file.read())
    return f"{found[0]}\n" if found else ""


def _name(server: Server) -> str:
    where = f" ({server.defn_name}:{server.defn_line_number})" if server.is_virtual else ""
    return f"{server.server_hostname or 'the main server'}{where}"


def _note_name(tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
    tls.codec.sni = name  # type: ignore[attr-defined]


def _note_and_stop(tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int:
    tls.codec.sni, tls.codec.asked = name, True  # type: ignore[attr-defined]
    return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR  # nothing of it is sent


_probing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
"""For handshakes that go no further than the name: which context is the right one must be known
before OpenSSL begins, because changing it later changes the certificate and nothing else."""
_probing.sni_callback = _note_and_stop


# -- a connection ---------------------------------------------------------------------------------


class Codec:
    """The TLS of one connection: ``Connection.input_codec``."""

    closed = False
    """The client has ended it, or it failed: nothing more can come."""
    ready = False
    """The handshake is over."""
    plain = False
    """The client speaks no TLS: what it says is passed on, to be answered with 400."""
    asked = False

    def __init__(self, connection: Connection, contexts: dict[Server, Context]) -> None:
        self._connection = connection
        self._contexts = contexts
        self.context = contexts[connection.base_server]
        self.sni: str | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._hello = b""
        self._variables: dict[str, str] | None = None

    # -- bytes

    def receive(self, data: bytes) -> bytes:
        """Return what *data*, from the client, says; ``b""`` while that is not known."""
        if self.plain:
            return data
        if self.closed:
            return b""
        try:
            if self._tls is None:
                if not self._hello and data[:1].isalpha():
                    self._speak_plainly()
                    return data
                data = self._choose(self._hello + data)
            tls = self._tls
            if tls is None:
                return b""
            self._incoming.write(data)
            if not self.ready:
                tls.do_handshake()
                self.ready = True
                self._connection.notes[PROVIDED] = self._always()
            return self._read(tls)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError as error:
            self._failed(error)
            return b""

    def _read(self, tls: ssl.SSLObject) -> bytes:
        found = []
        try:
            while data := tls.read(_BLOCK):
                found.append(data)
            self.closed = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.closed = True
        except ssl.SSLError as error:
            self._failed(error)
        return b"".join(found)

    def _failed(self, error: ssl.SSLError) -> None:
        self.closed = True
        doing = "TLS" if self.ready else "TLS handshake"
        connection = self._connection
        connection.base_server.process.log(
            f"[client {connection.client_ip}:{connection.client_port}] {doing} failed:"
            f" {error.reason or error}",
            "info",
        )

    def _speak_plainly(self) -> None:
        self.plain = True
        self._connection.notes.pop(PROVIDED, None)

    def _choose(self, hello: bytes) -> bytes:
        """Take the context of the server that the ClientHello names, once that is known."""
        servers = [each for each in self._connection.vhosts if each in self._contexts]
        if len({id(self._contexts[each]) for each in servers}) > 1:
            if not self._asks(hello):
                self._hello = hello
                return b""
            chosen = self.context.server
            if self.sni is not None:
                chosen = chosen.process.find_server(servers, self.sni.lower())
            self.context = self._contexts[chosen]
        self._hello = b""
        self._tls = self.context.tls.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._tls.codec = self  # type: ignore[attr-defined]
        return hello

    def _asks(self, hello: bytes) -> bool:
        """Find out :attr:`sni` from *hello*; False while it is incomplete."""
        incoming = ssl.MemoryBIO()
        probe = _probing.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
        probe.codec = self  # type: ignore[attr-defined]
        incoming.write(hello)
        try:
            probe.do_handshake()
        except ssl.SSLWantReadError:
            return self.asked
        except ssl.SSLError:
            pass  # by our own callback, or the right context fails just the same
        return True

    def pending(self) -> bytes:
        """Return what TLS itself has to send: its handshake, alerts."""
        return self._outgoing.read()

    def send(self, plain: bytes) -> bytes:
        """Return *plain* as it goes to the client; nothing before the handshake is over."""
        if self.plain:
            return plain
        tls = self._tls
        if tls is None or not self.ready:
            return b""
        left = memoryview(plain)
        try:
            while left:
                left = left[tls.write(left) :]
        except ssl.SSLError:
            self.closed = True  # it failed before; nobody reads this
        return self._outgoing.read()

    def close(self) -> bytes:
        """Return what tells the client that nothing was cut off (close_notify)."""
        tls = self._tls
        if tls is None or not self.ready:
            return self._outgoing.read()
        try:
            tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # the client's own is not waited for
        return self._outgoing.read()

    # -- what it tells applications

    def _always(self) -> dict[str, str]:
        tls = self._tls
        assert tls is not None  # noqa: S101 - the handshake is over
        cipher = tls.cipher()
        verified = "SUCCESS" if self.context.config.verify != "none" and tls.getpeercert() else ""
        found = {
            "SSL_PROTOCOL": tls.version() or "",
            "SSL_CIPHER": cipher[0] if cipher else "",
            "SSL_CLIENT_VERIFY": verified or "NONE",
        }
        if self.sni is not None:
            found["SSL_TLS_SNI"] = self.sni
        return found

    def variables(self) -> dict[str, str]:
        """Return mod_ssl's variables (StdEnvVars) but for those that are always there."""
        if self._variables is None:
            self._variables = self._all()
        return self._variables

    def _all(self) -> dict[str, str]:
        tls = self._tls
        assert tls is not None  # noqa: S101 - a request came over it
        cipher = tls.cipher()
        bits = str(cipher[2]) if cipher else "0"
        found = {
            "SSL_VERSION_INTERFACE": SOFTWARE,
            "SSL_VERSION_LIBRARY": ssl.OPENSSL_VERSION,
            "SSL_CIPHER_EXPORT": "false",
            "SSL_CIPHER_USEKEYSIZE": bits,
            "SSL_CIPHER_ALGKEYSIZE": bits,
            "SSL_COMPRESS_METHOD": "NULL",
            "SSL_SESSION_RESUMED": "Resumed" if tls.session_reused else "Initial",
        }
        certificate = tls.getpeercert()
        if certificate:
            found.update(_of_certificate(certificate))
        return found

    def certificates(self) -> dict[str, str]:
        """Return the certificates in PEM (ExportCertData)."""
        tls = self._tls
        assert tls is not None  # noqa: S101 - a request came over it
        found = {"SSL_SERVER_CERT": self.context.certificate}
        clients = tls.getpeercert(binary_form=True)
        if clients is not None:
            found["SSL_CLIENT_CERT"] = ssl.DER_cert_to_PEM_cert(clients)
            chain: list[bytes] = getattr(tls, "get_unverified_chain", list)()  # of Python 3.13
            for index, each in enumerate(chain[1:]):
                found[f"SSL_CLIENT_CERT_CHAIN_{index}"] = ssl.DER_cert_to_PEM_cert(each)
        return found


_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "title": "T",
    "initials": "I",
    "givenName": "G",
    "surname": "S",
    "description": "D",
    "userId": "UID",
    "domainComponent": "DC",
    "emailAddress": "Email",
}
_IN_NAMES = {"givenName": "GN", "surname": "SN", "emailAddress": "emailAddress"}
"""What is called otherwise within a name than at the end of a variable's."""


def _of_certificate(certificate: dict[str, Any]) -> dict[str, str]:
    found = {
        "SSL_CLIENT_M_VERSION": str(certificate.get("version", "")),
        "SSL_CLIENT_M_SERIAL": certificate.get("serialNumber", ""),
        "SSL_CLIENT_V_START": certificate.get("notBefore", ""),
        "SSL_CLIENT_V_END": certificate.get("notAfter", ""),
    }
    if "notAfter" in certificate:
        left = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
        found["SSL_CLIENT_V_REMAIN"] = str(max(0, int(left // 86400)))
    for prefix, key in (("SSL_CLIENT_S_DN", "subject"), ("SSL_CLIENT_I_DN", "issuer")):
        names = certificate.get(key, ())
        found[prefix] = _distinguished(names)
        count: dict[str, int] = {}
        for name, value in (pair for pairs in names for pair in pairs):
            short = _SHORT.get(name)
            if short is not None:
                number = count[short] = count.get(short, -1) + 1
                found[f"{prefix}_{short}_{number}" if number else f"{prefix}_{short}"] = _text(
                    value
                )
    seen: dict[str, int] = {}
    for kind, value in certificate.get("subjectAltName", ()):
        short = {"DNS": "DNS", "email": "Email"}.get(kind)
        if short is not None:
            number = seen[short] = seen.get(short, -1) + 1
            found[f"SSL_CLIENT_SAN_{short}_{number}"] = _text(value)
    return found


def _distinguished(names: Any) -> str:
    """Return a distinguished name as text, the last part first (RFC 4514)."""
    parts = []
    for pairs in reversed(names):
        one = []
        for name, value in pairs:
            short = _IN_NAMES.get(name) or _SHORT.get(name, name)
            one.append(f"{short}={_escaped(value)}")
        parts.append("+".join(one))
    return _text(",".join(parts))


def _escaped(value: str) -> str:
    text = "".join(f"\\{sign}" if sign in ',+"\\<>;' else sign for sign in value)
    if text[:1] in ("#", " "):
        text = f"\\{text}"
    if text.endswith(" ") and len(value) > 1:
        text = f"{text[:-1]}\\ "
    return text.replace("\0", "\\00")


def _text(value: str) -> str:
    """Return *value* as the environment has text: the bytes of its UTF-8, one code point each."""
    return value.encode("utf-8", "surrogateescape").decode("latin-1")


# -- hooks ----------------------------------------------------------------------------------------


def _post_config(host: Host) -> int:
    made: dict[Server, Context] = {}
    for server in (host.main, *host.servers):
        config: Config = server.module_config[ssl_module]
        if not config.engine or (server is host.main and not config.certificates and host.servers):
            continue  # SSLEngine outside of the virtual hosts may be meant for these alone
        twin = next((each for each in made.values() if each.config is config), None)
        made[server] = twin or Context(server, config)
    host.provided[PROVIDED] = made
    return OK


def _pre_connection(connection: Connection) -> int:
    server = connection.base_server
    contexts: dict[Server, Context] = server.process.provided.get(PROVIDED, {})
    if server not in contexts:
        return DECLINED
    connection.input_codec = Codec(connection, contexts)
    connection.notes[PROVIDED] = {}
    return OK


def _post_read_request(r: Request) -> int:
    codec = r.connection.input_codec
    if codec is None or codec.__class__ is not Codec:
        return DECLINED
    if codec.plain:
        r.connection.keepalive = False
        r.notes["error-notes"] = _PLAIN_HINT
        return 400
    if r.server is codec.context.server:
        return DECLINED
    config: Config = r.server.module_config[ssl_module]
    if config is codec.context.config or config.demands() == codec.context.config.demands():
        return DECLINED
    r.log(f"the connection is that of {_name(codec.context.server)}, which asks for other TLS")
    return 421


def _fixups(r: Request) -> int:
    codec = r.connection.input_codec
    if codec is None or codec.__class__ is not Codec or codec.plain:
        return DECLINED
    config: DirConfig = r.per_dir_config[ssl_module]
    if "StdEnvVars" in config.options:
        r.subprocess_env.update(codec.variables())
    if "ExportCertData" in config.options:
        r.subprocess_env.update(codec.certificates())
    return DECLINED


def _scheme(r: Request) -> Any:
    return "https" if r.connection.notes.get(PROVIDED) is not None else DECLINED


def _port(r: Request) -> int:
    return 443 if r.connection.notes.get(PROVIDED) is not None else DECLINED


def _register(hooks: Hooks) -> None:
    hooks.add("post_config", _post_config)
    hooks.add("pre_connection", _pre_connection, order=FIRST)
    hooks.add("post_read_request", _post_read_request, order=FIRST)
    hooks.add("fixups", _fixups)
    hooks.add("http_scheme", _scheme)
    hooks.add("default_port", _port)


ssl_module = Module(
    "mod_ssl",
    commands=(
        Command("SSLEngine", _engine, TAKE1, RSRC_CONF, "On or Off"),
        Command("SSLCertificateFile", _file("certificates", several=True), TAKE1, RSRC_CONF),
        Command("SSLCertificateKeyFile", _file("keys", several=True), TAKE1, RSRC_CONF),
        Command("SSLCertificateChainFile", _file("chain", several=False), TAKE1, RSRC_CONF),
        Command("SSLCACertificateFile", _file("authorities", several=False), TAKE1, RSRC_CONF),
        Command("SSLVerifyClient", _verify, TAKE1, RSRC_CONF, "none, optional or require"),
        Command("SSLProtocol", _protocol, TAKE_ARGV, RSRC_CONF, "[+|-]protocol ..."),
        Command("SSLCipherSuite", _ciphers, TAKE12, RSRC_CONF, "OpenSSL's names of ciphers"),
        Command("SSLHonorCipherOrder", _own_order, FLAG, RSRC_CONF),
        Command(
            "SSLOptions",
            _options,
            TAKE_ARGV,
            RSRC_CONF | ACCESS_CONF | OR_OPTIONS,
            "[+|-]StdEnvVars [+|-]ExportCertData",
        ),
    ),
    create_dir_config=lambda path: DirConfig(),
    merge_dir_config=DirConfig.merged,
    create_server_config=lambda server: Config(),
    merge_server_config=Config.merged,
    register_hooks=_register,
)
