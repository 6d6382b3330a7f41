"""The addresses of Redis and Postgres: checked part by part, normalised, masked.

`redis_dsn` and `postgres_dsn` accept what people really write, such as a raw ``@`` or ``%`` in a password, and return
what redis-py's ``from_url`` and libpq read without surprise. An error names the part that is wrong. No message holds a
password, not even one that a missing ``@`` put where the port belongs.

Source:
    RFC 3986 section 3.2 for the authority; the ``redis`` and ``rediss`` schemes registered with IANA; libpq,
    "Connection URIs" and "Keyword/Value Connection Strings" (https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-CONNSTRING).
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import quote, unquote

from jobqueue.errors import ConfigurationError

MASK = "***"
_PAIR = re.compile(r"""([^\s=?&/]+)(\s*=\s*)('(?:[^'\\]|\\.)*'?|(?:[^\s&\\]|\\.)*)""")
_PAIR_OR_WORD = re.compile(_PAIR.pattern + r"|\S+")
_HOSTS = re.compile(r"\[.*|[^:]*(:\d*)?(,[^:]*(:\d*)?)*")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_HOST = re.compile(r"[\w.-]+")

REDIS_FORM = "Write redis://[user:password@]host[:port][/database], rediss://… or unix:///socket/path[?db=n]."
POSTGRES_FORM = "Write postgresql://[user[:password]@][host[:port]][/database] or host=… dbname=… user=…."

REDIS_OPTIONS = frozenset(
    """
    db username password client_name protocol timeout max_connections health_check_interval
    socket_timeout socket_connect_timeout socket_keepalive retry_on_timeout ssl_keyfile ssl_certfile
    ssl_cert_reqs ssl_ca_certs ssl_ca_path ssl_ca_data ssl_check_hostname ssl_password ssl_min_version
    ssl_ciphers
    """.split()  # noqa: SIM905 — eighty lines of one word each would hide the code
)
POSTGRES_OPTIONS = frozenset(
    """
    host hostaddr port dbname user password passfile require_auth channel_binding connect_timeout
    client_encoding options application_name fallback_application_name keepalives keepalives_idle
    keepalives_interval keepalives_count tcp_user_timeout replication gssencmode sslmode sslnegotiation
    sslcompression sslcert sslkey sslkeylogfile sslpassword sslcertmode sslrootcert sslcrl sslcrldir
    sslsni requirepeer ssl_min_protocol_version ssl_max_protocol_version min_protocol_version
    max_protocol_version krbsrvname gsslib gssdelegation scram_client_key scram_server_key service
    servicefile target_session_attrs load_balance_hosts oauth_issuer oauth_client_id oauth_client_secret
    oauth_scope
    """.split()  # noqa: SIM905 — eighty lines of one word each would hide the code
)


def mask_url(url: str) -> str:
    """Return *url* with whatever is, or might be, a password replaced by ``***``; safe for malformed strings too."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
        if "=" in url:
            return _PAIR_OR_WORD.sub(_masked_pair, url)
    info, at, place = rest.rpartition("@")
    user, colon, _ = info.partition(":")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if at and separator and colon and not set(user) & set("/?#"):
        rest = f"{user}:{MASK}@{place}"
    elif at:
        # Without a colon it may be a password as well as a user.
        rest = f"{MASK}@{place}"
    elif not _HOSTS.fullmatch(authority):
        # "redis://user:password", the host forgotten.
        rest = f"{rest.partition(':')[0]}:{MASK}"
    return scheme + separator + _PAIR.sub(_masked_pair, rest)


def _masked_pair(match: re.Match[str]) -> str:
    """Keep a setting that is known to be harmless, and nothing else."""
    key = match[1]
    if key is None:
        return MASK
    is_harmless = key in REDIS_OPTIONS | POSTGRES_OPTIONS and not re.search("pass|secret|key", key)
    return match[0] if is_harmless else f"{key}{match[2]}{MASK}"


def redis_dsn(raw: str, *, name: str = "REDIS_URL") -> str:
    """Return *raw* as an address that ``redis.Redis.from_url`` reads as meant.

    Raises:
        ConfigurationError: A part of it is wrong; the message names which.
    """
    address = _Address(name, raw, REDIS_FORM)
    scheme, rest = address.split_scheme(
        ("redis", "rediss", "unix"), {"valkey": "redis", "valkeys": "rediss", "redis+ssl": "rediss"}
    )
    authority, path, query = address.split(rest)
    options = address.options(query, REDIS_OPTIONS)
    if "db" in options and not options["db"].isdecimal():
        address.fail("database number", "must be a whole number, 0 or more")
    info, place = address.user_info(authority)
    if scheme == "unix":
        if place or not path.strip("/"):
            address.fail("socket path", "must be absolute, with three slashes: unix:///run/redis.sock")
        return f"unix://{info}{quote(unquote(path))}{_query(options)}"
    host, port = address.host_port(place)
    if not host:
        address.fail("host", "is empty")
    database = path.strip("/")
    if database and not database.isdecimal():
        address.fail("database number", "must be a whole number, 0 or more")
    chosen = options.pop("db", database or "0")
    if database and int(chosen) != int(database):
        address.fail("database number", f"is given twice, as {int(database)} and as {int(chosen)}")
    return f"{scheme}://{info}{host}:{port or 6379}/{int(chosen)}{_query(options)}"


def postgres_dsn(raw: str, *, name: str = "DATABASE_URL") -> str:
    """Return *raw*, an address or a keyword string, as one that libpq reads as meant.

    Raises:
        ConfigurationError: A part of it is wrong; the message names which.
    """
    address = _Address(name, raw, POSTGRES_FORM)
    if "://" not in address.text and "=" in address.text:
        return _keyword_string(address)
    hints = {
        "postgresql+psycopg": "postgresql",
        "postgresql+psycopg2": "postgresql",
        "postgresql+asyncpg": "postgresql",
        "pg": "postgresql",
    }
    _, rest = address.split_scheme(("postgresql", "postgres"), hints)
    authority, path, query = address.split(rest)
    if "#" in rest:
        address.fail("user info" if "#" in authority else "database name", "holds a raw '#'; write it as %23")
    options = address.options(query, POSTGRES_OPTIONS | {"ssl"})
    _check_port_list(address, options.get("port", ""))
    info, place = address.user_info(authority)
    hosts = [address.host_port(one) for one in place.split(",")]
    if len(hosts) > 1 and not all(host for host, _ in hosts):
        address.fail("host", "is empty in a list of several")
    where = ",".join(f"{host}:{port}" if port else host for host, port in hosts)
    database = quote(address.decoded(path.removeprefix("/"), "database name"), safe="")
    return f"postgresql://{info}{where}{'/' + database if database or options else ''}{_query(options)}"


@dataclass(frozen=True)
class _Address:
    """One address under examination: what it is called, what was given, how it should look."""

    name: str
    raw: str
    form: str

    @property
    def text(self) -> str:
        text = self.raw.strip()
        if not text:
            self.fail("address", "is empty")
        if re.search(r"[\x00-\x1f\x7f]", text):
            self.fail("address", "holds a control character")
        return text

    def fail(self, part: str, problem: str) -> NoReturn:
        raise ConfigurationError(
            f"{self.name}: the {part} {problem}, in {mask_url(self.raw.strip())!r}.", remedy=self.form
        )

    def split_scheme(self, schemes: tuple[str, ...], hints: dict[str, str]) -> tuple[str, str]:
        given, separator, rest = self.text.partition("://")
        if not separator:
            self.fail("scheme", f"is missing; {' or '.join(f'{scheme}://' for scheme in schemes)} is expected")
        scheme = given.lower()
        if scheme not in schemes:
            meant = hints.get(scheme) or next(iter(difflib.get_close_matches(scheme, schemes, 1)), schemes[0])
            self.fail("scheme", f"is unknown; did you mean {meant}://?")
        if re.search(r"\s", rest):
            self.fail("address", "holds a space; write it as %20")
        return scheme, rest

    def split(self, rest: str) -> tuple[str, str, str]:
        """Return authority, path and query."""
        match = re.fullmatch(r"([^/?#]*)(/[^?#]*)?(?:\?([^#]*))?(#.*)?", rest)
        if match is None:
            self.fail("address", "cannot be read")
        authority, path, query, fragment = (group or "" for group in match.groups())
        # A raw '/', '?' or '#' in a password ends the authority too early, and the '@' turns up behind it.
        if "@" in path or "@" in fragment or ("@" in query and "@" not in authority and not self._is_plain(authority)):
            self.fail("user info", "holds a raw '/', '?' or '#'; write %2F, %3F or %23 in the password")
        return authority, path, query if not fragment else f"{query}{fragment}"

    def _is_plain(self, authority: str) -> bool:
        return re.fullmatch(r"[\w.,%-]*|\[[0-9A-Fa-f:.]+\](:\d+)?", authority) is not None

    def user_info(self, authority: str) -> tuple[str, str]:
        """Return the user info, encoded and with its ``@``, and what follows it."""
        info, at, place = authority.rpartition("@")
        if not at:
            return "", place
        user, colon, password = info.partition(":")
        user, password = (quote(self.decoded(one, "user info"), safe="") for one in (user, password))
        return (f"{user}{colon}{password}@" if user or password else ""), place

    def decoded(self, text: str, part: str) -> str:
        """Undo percent-encoding; a text in which no ``%`` starts an escape was not encoded."""
        escapes = len(_ESCAPE.findall(text))
        if escapes == 0:
            return text
        if escapes != text.count("%"):
            self.fail(part, "mixes percent-escapes with a raw '%'; write that as %25")
        try:
            return unquote(text, errors="strict")
        except UnicodeDecodeError:
            self.fail(part, "has percent-escapes that are not UTF-8")

    def host_port(self, place: str) -> tuple[str, str]:
        """Return host and port, each empty when not given."""
        if place.startswith("["):
            host, bracket, tail = place[1:].partition("]")
            try:
                ipaddress.IPv6Address(host)
            except ValueError:
                self.fail("host", "is not an IPv6 address in brackets")
            if not bracket or (tail and not tail.startswith(":")):
                self.fail("host", "has an unfinished bracket")
            return f"[{host}]", self.port(tail.removeprefix(":"))
        if place.count(":") > 1:
            self.fail("host", "holds several colons; write an IPv6 address in brackets, [::1]")
        host, _, port = place.partition(":")
        # libpq takes a percent-encoded socket directory for a host.
        is_socket = self.form is POSTGRES_FORM and host.upper().startswith("%2F")
        if host and not is_socket and not _HOST.fullmatch(host):
            self.fail("host", "holds a character that no host name has")
        return host, self.port(port)

    def port(self, text: str) -> str:
        if text and not (text.isascii() and text.isdecimal()):
            self.fail("port", "is not a number")
        if text and not 1 <= int(text) <= 65535:
            self.fail("port", f"{int(text)} is not between 1 and 65535")
        return text

    def options(self, query: str, known: frozenset[str]) -> dict[str, str]:
        """Return the query's options, decoded."""
        found: dict[str, str] = {}
        for pair in query.split("&") if query else ():
            key, equals, value = pair.partition("=")
            if not equals or not re.fullmatch(r"\w+", key):
                self.fail("query", "must be option=value pairs, joined by '&'")
            self.check_option(key, known)
            found[key] = self.decoded(value, f"option {key}")
        return found

    def check_option(self, key: str, known: frozenset[str]) -> None:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            self.fail(f"option {key}", f"is unknown{f'; did you mean {near[0]}?' if near else ''}")


def _query(options: dict[str, str]) -> str:
    return "?" + "&".join(f"{key}={quote(value, safe='/')}" for key, value in options.items()) if options else ""


def _check_port_list(address: _Address, ports: str) -> None:
    for port in ports.split(","):
        address.port(port.strip())


def _keyword_string(address: _Address) -> str:
    """Check a libpq keyword string, ``host=… password='it''s \\'quoted\\''``, and return it as it was."""
    text = address.text
    pattern = re.compile(r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*|)(?=\s|$)\s*")
    position = 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None:
            address.fail("keyword string", "must be key=value pairs; quote a value with spaces in single quotes")
        key, value = match.groups()
        address.check_option(key, POSTGRES_OPTIONS)
        if key == "port":
            _check_port_list(address, value.strip("'"))
        position = match.end()
    return text
