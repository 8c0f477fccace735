"""mod_authn_file: AuthUserFile, the passwords of ``AuthBasicProvider file``.

A line of the file is ``USER:HASH``, as ``htpasswd`` writes them: bcrypt (``-B``), SHA-crypt
(``-2``, ``-5``), apr1 (``-m``) and SHA-1 (``-s``). Plain text and the old crypt are refused: such
a user cannot log in, and the log says why. The file is read again when it has changed. The hashes
are libpass's and bcrypt's work, which the extra ``sapi_adapters[auth]`` brings.

Verifying a password is slow, as it is meant to be: with bcrypt 2 ms at htpasswd's default cost of
5, and twice that with each one more. Phases are not awaitable, so **on an event loop it holds up
the other requests of the process** for that time; under prefork and worker it holds up nobody, as
bcrypt lets other threads run. Browsers send the password with every request. Therefore what has
been verified is remembered for five minutes, in this process alone: an HMAC of user, password and
hash with a random key, up to a thousand of them. Wrong passwords are never remembered, each costs
its time: where strangers may try under the event MPM, keep bcrypt's cost low (5 to 8).

Unknown users cost what known ones do: their password is verified against another's hash, the same
one each time, and refused. Passwords that no hash can be of (with a NUL, or longer than 1024
bytes) are refused at once, whoever asks. Of a longer one bcrypt sees 72 bytes, as in Apache.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ...sapi import ConfigurationError
from ..hooks import OK
from ..module import ACCESS_CONF, OR_AUTHCFG, TAKE1, Command, Module, Settings
from .changing_files import ChangingFiles
from .mod_authn_core import (
    AUTH_DENIED,
    AUTH_GENERAL_ERROR,
    AUTH_GRANTED,
    AUTH_USER_NOT_FOUND,
    register_authn_provider,
)

if TYPE_CHECKING:
    from ..config import Parameters
    from ..hooks import Hooks
    from ..host import Host
    from ..records import Request

FORMATS = {
    "$2y$": "bcrypt",
    "$2b$": "bcrypt",
    "$2a$": "bcrypt",
    "$apr1$": "apr_md5_crypt",
    "$5$": "sha256_crypt",
    "$6$": "sha512_crypt",
    "{SHA}": "ldap_sha1",
}
"""How a hash begins, and the library's name of the scheme."""
_LONGEST = 1024
_BCRYPT_SEES = 72
_REMEMBERED_FOR = 300.0
_MOST = 1000


class Config(Settings):
    """What is configured for a section."""

    file: str | None = None


def library() -> Any:
    """Return libpass's schemes. Raises :class:`ConfigurationError` when it is not installed."""
    try:
        importlib.import_module("bcrypt")
        return importlib.import_module("passlib.hash")
    except ImportError as error:
        raise ConfigurationError(
            f"password files need libpass and bcrypt ({error}): pip install 'sapi_adapters[auth]'"
        ) from None


# -- hashes ---------------------------------------------------------------------------------------


class Hash(NamedTuple):
    """A password's hash."""

    scheme: str
    """A value of :data:`FORMATS`."""
    text: str

    def verify(self, password: bytes) -> bool:
        """Whether *password* is what it was made of; takes the same time for each wrong one."""
        if self.scheme == "bcrypt":
            password = password[:_BCRYPT_SEES]
        same: bool = getattr(library(), self.scheme).verify(password, self.text)
        return same


def hash_of(text: str) -> Hash | None:
    """Return the hash that *text* is, None for plain text and whatever else it may be."""
    scheme = next((name for sign, name in FORMATS.items() if text.startswith(sign)), None)
    if scheme is None:
        return None
    try:
        parsed = getattr(library(), scheme)
        if getattr(parsed.from_string(text), "checksum", None) is None:
            return None
    except (ValueError, TypeError):
        return None
    return Hash(scheme, text)


class Users:
    """The content of a password file."""

    def __init__(self, data: bytes) -> None:
        self.hashes: dict[str, Hash | None] = {}
        for line in data.decode("latin-1").split("\n"):
            user, colon, rest = line.strip("\r").partition(":")
            if colon and user and not user.startswith("#") and user not in self.hashes:
                self.hashes[user] = hash_of(rest.partition(":")[0].strip())
        self._others = sorted({each for each in self.hashes.values() if each is not None})
        self._secret = hashlib.sha256(data).digest()

    def other_than(self, user: str) -> Hash | None:
        """Return a hash for somebody who has none: the same one each time, in each process."""
        if not self._others:
            return None
        digest = hmac.digest(self._secret, user.encode("latin-1"), hashlib.sha256)
        return self._others[int.from_bytes(digest[:8], "big") % len(self._others)]


class Verified:
    """Passwords that were found to be right, by what :meth:`digest` makes of them."""

    def __init__(self, seconds: float = _REMEMBERED_FOR, most: int = _MOST) -> None:
        self._seconds = seconds
        self._most = most
        self._lock = threading.Lock()
        self.renew()

    def renew(self) -> None:
        """Forget everything, and take another key: in each process its own."""
        self._key = secrets.token_bytes(32)
        self._until: dict[bytes, float] = {}

    def digest(self, *parts: bytes) -> bytes:
        """Return what stands for *parts*, of which none has a NUL, and tells nothing of them."""
        return hmac.digest(self._key, b"\0".join(parts), hashlib.sha256)

    def has(self, digest: bytes) -> bool:
        """Whether that was found to be right, not too long ago."""
        until = self._until.get(digest)
        return until is not None and time.monotonic() < until

    def add(self, digest: bytes) -> None:
        """Remember *digest*; the oldest ones go first."""
        with self._lock:
            self._until.pop(digest, None)
            while len(self._until) >= self._most:
                del self._until[next(iter(self._until))]
            self._until[digest] = time.monotonic() + self._seconds


_verified = Verified()
_files = ChangingFiles(Users)


# -- the provider ---------------------------------------------------------------------------------


def check_password(r: Request, user: str, password: bytes) -> int:
    """Return what the file of *r*'s section says of *user* with *password* (authn_status)."""
    config: Config = r.per_dir_config[authn_file_module]
    if config.file is None:
        r.log("AuthUserFile not specified in the configuration")
        return AUTH_GENERAL_ERROR
    if b"\0" in password or len(password) > _LONGEST:
        return AUTH_DENIED
    try:
        users = _files.get(config.file)
    except OSError as error:
        r.log(f"Could not open password file: {config.file!a}: {error.strerror}")
        return AUTH_GENERAL_ERROR
    hashed = users.hashes.get(user)
    if hashed is None:
        other = users.other_than(user)
        if other is not None:
            other.verify(password)
        if user not in users.hashes:
            return AUTH_USER_NOT_FOUND
        r.log(f"user {user!a}: the entry in {config.file!a} is in no format that is accepted")
        return AUTH_DENIED
    digest = _verified.digest(user.encode("latin-1"), password, hashed.text.encode("latin-1"))
    if _verified.has(digest):
        return AUTH_GRANTED
    if not hashed.verify(password):
        return AUTH_DENIED
    _verified.add(digest)
    return AUTH_GRANTED


def _user_file(cmd: Parameters, config: Config, path: str) -> None:
    library()
    config.file = cmd.server_path(path)


def _provide(host: Host) -> int:
    register_authn_provider(host, "file", check_password)
    return OK


def _register(hooks: Hooks) -> None:
    hooks.add("pre_config", _provide)
    hooks.add("child_init", lambda host: _verified.renew())


authn_file_module = Module(
    "mod_authn_file",
    commands=(
        Command("AuthUserFile", _user_file, TAKE1, ACCESS_CONF | OR_AUTHCFG, "a password file"),
    ),
    create_dir_config=lambda path: Config(),
    merge_dir_config=Config.merged,
    register_hooks=_register,
)
