"""The front ends of the interop tests: one row per web server and way of reaching the application.

A row says which server it is, how to configure it, who starts the application and what the
application should then see.  Adding a front end is adding a row to FRONTS; a case of the
conformance table that the front end cannot carry is listed in the row, with the reason, and is
expected to fail: when it stops failing, the row is out of date and the test says so.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from processes import Address

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# What an application needs in order to be imported; servers pass it on in their own ways, because
# most of them give a program an environment of their own making.
PYTHONPATH = os.pathsep.join((str(ROOT), str(HERE / "apps")))

# server -> (program, Debian packages)
SERVERS: dict[str, tuple[str, str]] = {
    "nginx": ("nginx", "nginx"),
    "apache": ("apache2", "apache2 libapache2-mod-fcgid"),
    "lighttpd": ("lighttpd", "lighttpd"),
    "haproxy": ("haproxy", "haproxy"),
    "spawn-fcgi": ("spawn-fcgi", "spawn-fcgi"),
    "cgi-fcgi": ("cgi-fcgi", "libfcgi-bin"),
}

# Applications by the name under which the tests ask for them.
APPS: dict[str, str] = {
    "wsgi": "sapi_adapters.testing:wsgi_app",
    "asgi": "sapi_adapters.testing:asgi_app",
    "flask": "flask_page:app",
    "django": "django_page:app",
    "fastapi": "fastapi_page:app",
    "starlette": "starlette_page:app",
    "streaming-wsgi": "streaming:wsgi_app",
    "streaming-asgi": "streaming:asgi_app",
    "files-wsgi": "files:wsgi_app",
    "files-asgi": "files:asgi_app",
}

# How the application is run when no web server starts it: options of the command line, in which
# {files} is the directory that a front end may send files from.
BACKENDS: dict[str, list[str]] = {
    "unix": ["--sapi", "fcgi-prefork", "--workers", "2", "--script-name", "/mount"],
    "unix-unmended": ["--sapi", "fcgi-prefork", "--workers", "2"],
    "tcp": ["--sapi", "fcgi-threaded", "--threads", "4", "--script-name", "/"],
    "scgi-unix": ["--sapi", "scgi-prefork", "--workers", "2", "--script-name", "/mount"],
    "scgi-unix-unmended": ["--sapi", "scgi-prefork", "--workers", "2"],
    "scgi-tcp": ["--sapi", "scgi-threaded", "--threads", "4", "--script-name", "/"],
    "ajp-unix": ["--sapi", "ajp-prefork", "--workers", "2", "--script-name", "/mount"],
    "ajp-tcp": [
        *("--sapi", "ajp-threaded", "--threads", "4", "--script-name", "/"),
        *("--set", "ajp.secret=between-us"),
    ],
    "spawn-fcgi": [],
    "x-accel-redirect": [
        *("--sapi", "fcgi-prefork", "--workers", "1", "--script-name", "/mount"),
        *("--sendfile", "x-accel-redirect=/protected:{files}"),
    ],
    "x-sendfile": [
        *("--sapi", "fcgi-prefork", "--workers", "1", "--script-name", "/mount"),
        *("--sendfile", "x-sendfile={files}"),
    ],
}


def find(server: str) -> str | None:
    """The path of a server's program; /usr/sbin is looked through even when PATH lacks it."""
    program, _ = SERVERS[server]
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")


@dataclass(frozen=True)
class Site:
    """One application behind a front end: the port it is reached at and where it is found."""

    app: str
    port: int
    script: Path
    backend: Address | None

    @property
    def nginx_backend(self) -> str:
        if isinstance(self.backend, str):
            return f"unix:{self.backend}"
        assert self.backend is not None
        return "{}:{}".format(*self.backend)


Configure = Callable[["Front", Path, Sequence[Site]], list[str]]


@dataclass(frozen=True)
class Front:
    """One row: a web server, configured in one way."""

    name: str
    server: str
    configure: Configure
    # The SAPI that the application should find itself under.
    sapi: str
    # A key of BACKENDS, or None when the web server starts the script.
    backend: str | None = None
    # The path under which the application is served; "{script}" is the script's file name.
    mount: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    # Cases that cannot hold here -> why.
    differences: Mapping[str, str] = field(default_factory=dict)

    def mount_of(self, site: Site) -> str:
        return self.mount.replace("{script}", site.script.name)


# -- nginx ------------------------------------------------------------------------------------


def configure_nginx(front: Front, directory: Path, sites: Sequence[Site]) -> list[str]:
    options = front.options
    protocol = options.get("protocol", "fastcgi")
    upstreams = []
    servers = []
    for number, site in enumerate(sites):
        keep = "keepalive 2;" if options["keep_conn"] == "on" else ""
        upstreams.append(f"upstream site_{number} {{ server {site.nginx_backend}; {keep} }}")
        split = ""
        location = front.mount or "/"
        if options.get("split") and protocol == "scgi":
            location = f"~ ^(?<script>{front.mount})(?<rest>/.*)?$"
            split = """
            scgi_param SCRIPT_NAME $script;
            scgi_param PATH_INFO $rest;"""
        elif options.get("split"):
            split = f"""
            fastcgi_split_path_info ^({front.mount})(/.*)?$;
            fastcgi_param PATH_INFO $fastcgi_path_info;"""
        buffering = ""
        if options["buffering"] == "off":
            buffering = f"{protocol}_buffering off; {protocol}_request_buffering off;"
        keep_conn = ""
        if protocol == "fastcgi":
            keep_conn = f"fastcgi_keep_conn {options['keep_conn']};"
        servers.append(f"""
        server {{
            listen 127.0.0.1:{site.port};
            server_name localhost;
            location {location} {{
                include /etc/nginx/{protocol}_params;{split}
                {protocol}_pass site_{number};
                {keep_conn}
                {buffering}
            }}
            {options.get("more", "").replace("{directory}", str(directory.parent))}
        }}""")
    user = "user root;" if os.geteuid() == 0 else ""
    newline = "\n        "
    config = directory / "nginx.conf"
    config.write_text(f"""
    {user}
    worker_processes 1;
    daemon off;
    pid {directory}/nginx.pid;
    error_log {directory}/error.log info;
    events {{ worker_connections 128; }}
    http {{
        access_log off;
        client_max_body_size 64m;
        client_body_temp_path {directory}/body;
        fastcgi_temp_path {directory}/fastcgi;
        proxy_temp_path {directory}/proxy;
        scgi_temp_path {directory}/scgi;
        uwsgi_temp_path {directory}/uwsgi;
        {newline.join(upstreams)}
        {newline.join(servers)}
    }}
    """)
    program = find("nginx")
    assert program is not None
    return [program, "-e", str(directory / "error.log"), "-p", str(directory), "-c", str(config)]


# -- Apache -----------------------------------------------------------------------------------

APACHE_MODULES = Path("/usr/lib/apache2/modules")
AS_WWW_DATA = [
    *("setpriv", "--reuid", "www-data", "--regid", "www-data", "--clear-groups"),
    *("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override", "--"),
]


def configure_apache(front: Front, directory: Path, sites: Sequence[Site]) -> list[str]:
    options = front.options
    mpm = options.get("mpm", "event")
    modules = [f"mpm_{mpm}", "authz_core", "env", "alias", *options["modules"].split()]
    run = directory / "run"
    run.mkdir()
    hosts = []
    for site in sites:
        hosts.append(f"""
        Listen 127.0.0.1:{site.port}
        <VirtualHost 127.0.0.1:{site.port}>
            ServerName localhost
            AllowEncodedSlashes NoDecode
            {_apache_site(front, site)}
        </VirtualHost>""")
    workers = "ThreadsPerChild 8\nServerLimit 2\nMaxRequestWorkers 16"
    if mpm == "prefork":
        workers = "MaxRequestWorkers 4"
    newline = "\n"
    loads = (f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so" for name in modules)
    config = directory / "apache.conf"
    config.write_text(f"""
ServerRoot {directory}
DefaultRuntimeDir {run}
PidFile {run}/apache.pid
ServerName localhost
ErrorLog {directory}/error.log
LogLevel info
Timeout 30
{newline.join(loads)}
StartServers 1
{workers}
<Directory />
    Require all granted
    Options +ExecCGI +FollowSymLinks
</Directory>
<Location />
    CGIPassAuth On
</Location>
{options.get("more", "").replace("{run}", str(run)).replace("{path}", PYTHONPATH)}
{newline.join(hosts)}
""")
    program = find("apache")
    assert program is not None
    command = [program, "-d", str(directory), "-f", str(config), "-DFOREGROUND"]
    if os.geteuid() != 0:
        return command
    # Apache refuses to serve as root.  As www-data it could neither open a socket of mode 0660 nor
    # start an interpreter that is installed below /root; one capability makes up for both.
    return [*AS_WWW_DATA, *command]


def _apache_site(front: Front, site: Site) -> str:
    if front.backend is None:
        return front.options["site"].replace("{scripts}", str(site.script.parent))
    mount = front.mount or "/"
    parameters = front.options.get("parameters", "")
    scheme = front.options.get("scheme", "fcgi")
    if isinstance(site.backend, str):
        target = f"unix:{site.backend}|{scheme}://localhost{mount}"
    else:
        assert site.backend is not None
        target = "{}://{}:{}{}".format(scheme, *site.backend, mount)
    return f'ProxyPass "{mount}" "{target}" flushpackets=on {parameters}'


# -- lighttpd ---------------------------------------------------------------------------------


def configure_lighttpd(front: Front, directory: Path, sites: Sequence[Site]) -> list[str]:
    (directory / "htdocs").mkdir()
    (directory / "upload").mkdir()
    blocks = []
    for site in sites:
        text = front.options["site"]
        if isinstance(site.backend, tuple):
            text = text.replace("{host}", site.backend[0]).replace("{port}", str(site.backend[1]))
        elif isinstance(site.backend, str):
            text = text.replace("{socket}", site.backend)
        text = text.replace("{own_socket}", str(directory / f"{site.app}.sock"))
        text = text.replace("{script}", str(site.script))
        text = text.replace("{scripts}", str(site.script.parent)).replace("{path}", PYTHONPATH)
        text = text.replace("{directory}", str(directory.parent))
        blocks.append(f'$SERVER["socket"] == "127.0.0.1:{site.port}" {{ {text} }}')
    newline = "\n"
    module = front.options.get("module", "mod_fastcgi")
    config = directory / "lighttpd.conf"
    config.write_text(f"""
server.modules = ("mod_alias", "mod_setenv", "{module}", "mod_cgi")
server.document-root = "{directory}/htdocs"
server.bind = "127.0.0.1"
server.port = {sites[0].port}
server.errorlog = "{directory}/error.log"
server.breakagelog = "{directory}/breakage.log"
server.upload-dirs = ("{directory}/upload")
server.stream-response-body = 2
server.max-keep-alive-requests = 0
server.http-parseopts = ("url-invalid-utf8-reject" => "disable")
{newline.join(blocks)}
""")
    program = find("lighttpd")
    assert program is not None
    return [program, "-D", "-f", str(config)]


# -- HAProxy ----------------------------------------------------------------------------------


def configure_haproxy(front: Front, directory: Path, sites: Sequence[Site]) -> list[str]:
    sections = []
    for number, site in enumerate(sites):
        backend = site.backend
        address = f"unix@{backend}" if isinstance(backend, str) else "{}:{}".format(*backend or ())
        sections.append(f"""
frontend front_{number}
    bind 127.0.0.1:{site.port}
    default_backend site_{number}

backend site_{number}
    use-fcgi-app app
    server one {address} proto fcgi
""")
    newline = "\n"
    config = directory / "haproxy.cfg"
    config.write_text(f"""
global
    maxconn 200
    log stdout format raw local0 info

defaults
    mode http
    log global
    timeout connect 5s
    timeout client 30s
    timeout server 30s

fcgi-app app
    docroot /srv/none
    log-stderr global
    {front.options["app"]}

{newline.join(sections)}
""")
    program = find("haproxy")
    assert program is not None
    return [program, "-db", "-f", str(config)]


# -- the rows ---------------------------------------------------------------------------------


def _nginx_host_rule(protocol: str) -> dict[str, str]:
    """Debian's security patch of fastcgi_params and its like sends $host, which has no port."""
    params = Path(f"/etc/nginx/{protocol}_params")
    lines = params.read_text().splitlines() if params.exists() else []
    if any(line.split() == [f"{protocol}_param", "HTTP_HOST", "$host;"] for line in lines):
        why = f"Debian's {protocol}_params sends $host, without the port"
        return {"header-host-with-port": why}
    return {}


NGINX_DIFFERENCES = _nginx_host_rule("fastcgi")

PROXY_FCGI_DIFFERENCES = {
    "content-length-kept": "Apache drops Content-Length of CGI-like responses since 2.4.59",
}

LIGHTTPD_DIFFERENCES = {
    "unknown-method": "lighttpd answers 501 to methods that it does not know",
    "status-reason": "lighttpd writes its own reason phrases, and none for an unknown status",
}

HAPROXY_DIFFERENCES = {
    "header-authorization": "HAProxy turns Authorization into AUTH_TYPE and REMOTE_USER",
}


def _nginx_scgi(transport: str, buffering: str) -> Front:
    # Half of the rows of the Unix socket split the path in nginx.
    options = {"protocol": "scgi", "keep_conn": "off", "buffering": buffering}
    backend = f"scgi-{transport}"
    if transport == "unix" and buffering == "off":
        options["split"] = "yes"
        backend = "scgi-unix-unmended"
    return Front(
        name=f"nginx-scgi-{transport}" + ("-unbuffered" if buffering == "off" else ""),
        server="nginx",
        configure=configure_nginx,
        sapi="scgi-prefork" if transport == "unix" else "scgi-threaded",
        backend=backend,
        mount="/mount" if transport == "unix" else "",
        options=options,
        differences=_nginx_host_rule("scgi"),
    )


def _nginx(transport: str, keep_conn: str, buffering: str) -> Front:
    name = f"nginx-{transport}"
    name += "-keep" if keep_conn == "on" else ""
    name += "-unbuffered" if buffering == "off" else ""
    options = {"keep_conn": keep_conn, "buffering": buffering}
    backend = transport
    if transport == "unix" and keep_conn == "on":
        # Half of the rows split the path in nginx, the other half leave it to --script-name.
        options["split"] = "yes"
        backend = "unix-unmended"
    return Front(
        name=name,
        server="nginx",
        configure=configure_nginx,
        sapi="fcgi-prefork" if transport == "unix" else "fcgi-threaded",
        backend=backend,
        mount="/mount" if transport == "unix" else "",
        options=options,
        differences=NGINX_DIFFERENCES,
    )


# Apache drops the Content-Length of a CGI program since 2.4.59, unless it is told to trust it.
_CGI = "SetEnv PYTHONPATH {path}\nSetEnv ap_trust_cgilike_cl 1"
_CGI_SITE = "ScriptAlias /cgi-bin/ {scripts}/"
_FCGID = """
FcgidIPCDir {run}/fcgid
FcgidProcessTableFile {run}/fcgid.shm
FcgidInitialEnv PYTHONPATH {path}
FcgidMaxRequestLen 67108864
FcgidMaxProcessesPerClass 2
FcgidMinProcessesPerClass 0
FcgidOutputBufferSize 0
FcgidConnectTimeout 20
"""
_FCGID_SITE = """
Alias /fcgi/ {scripts}/
<Location /fcgi/>
    SetHandler fcgid-script
</Location>"""

FRONTS: tuple[Front, ...] = (
    *(
        _nginx(transport, keep_conn, buffering)
        for transport in ("unix", "tcp")
        for keep_conn in ("off", "on")
        for buffering in ("on", "off")
    ),
    Front(
        name="nginx-spawn-fcgi",
        server="nginx",
        configure=configure_nginx,
        sapi="fcgi-prefork",
        backend="spawn-fcgi",
        mount="/mount",
        options={"keep_conn": "off", "buffering": "on", "split": "yes"},
        differences=NGINX_DIFFERENCES,
    ),
    Front(
        name="apache-cgid",
        server="apache",
        configure=configure_apache,
        sapi="cgi",
        mount="/cgi-bin/{script}",
        options={
            "modules": "cgid",
            "more": f"ScriptSock {{run}}/cgid.sock\n{_CGI}",
            "site": _CGI_SITE,
        },
    ),
    Front(
        name="apache-cgi",
        server="apache",
        configure=configure_apache,
        sapi="cgi",
        mount="/cgi-bin/{script}",
        options={
            "mpm": "prefork",
            "modules": "cgi",
            "more": _CGI,
            "site": _CGI_SITE,
        },
    ),
    Front(
        name="apache-fcgid",
        server="apache",
        configure=configure_apache,
        sapi="fcgi-prefork",
        mount="/fcgi/{script}",
        options={"modules": "fcgid", "more": _FCGID, "site": _FCGID_SITE},
    ),
    Front(
        name="apache-proxy-unix",
        server="apache",
        configure=configure_apache,
        sapi="fcgi-prefork",
        backend="unix",
        mount="/mount",
        options={"modules": "proxy proxy_fcgi"},
        differences=PROXY_FCGI_DIFFERENCES,
    ),
    Front(
        name="apache-proxy-tcp",
        server="apache",
        configure=configure_apache,
        sapi="fcgi-threaded",
        backend="tcp",
        options={"modules": "proxy proxy_fcgi"},
        differences=PROXY_FCGI_DIFFERENCES,
    ),
    Front(
        name="apache-proxy-tcp-reuse",
        server="apache",
        configure=configure_apache,
        sapi="fcgi-threaded",
        backend="tcp",
        options={"modules": "proxy proxy_fcgi", "parameters": "enablereuse=on"},
        differences=PROXY_FCGI_DIFFERENCES,
    ),
    Front(
        name="lighttpd-cgi",
        server="lighttpd",
        configure=configure_lighttpd,
        sapi="cgi",
        mount="/cgi-bin/{script}",
        options={
            "site": """
            alias.url = ("/cgi-bin/" => "{scripts}/")
            cgi.assign = (".py" => "")
            setenv.add-environment = ("PYTHONPATH" => "{path}")
            """
        },
        differences=LIGHTTPD_DIFFERENCES,
    ),
    Front(
        name="lighttpd-unix",
        server="lighttpd",
        configure=configure_lighttpd,
        sapi="fcgi-prefork",
        backend="unix-unmended",
        mount="/mount",
        options={
            "site": """
            fastcgi.server = ("/mount" => (("socket" => "{socket}", "check-local" => "disable")))
            """
        },
        differences=LIGHTTPD_DIFFERENCES,
    ),
    Front(
        name="lighttpd-tcp",
        server="lighttpd",
        configure=configure_lighttpd,
        sapi="fcgi-threaded",
        backend="tcp",
        options={
            "site": """
            fastcgi.server = ("/" => (
                ("host" => "{host}", "port" => {port}, "check-local" => "disable")
            ))
            """
        },
        differences=LIGHTTPD_DIFFERENCES,
    ),
    Front(
        name="lighttpd-bin-path",
        server="lighttpd",
        configure=configure_lighttpd,
        sapi="fcgi-prefork",
        mount="/mount",
        options={
            "site": """
            fastcgi.server = ("/mount" => ((
                "bin-path" => "{script}",
                "socket" => "{own_socket}",
                "max-procs" => 1,
                "check-local" => "disable",
                "bin-environment" => ("PYTHONPATH" => "{path}"),
            )))
            """
        },
        differences=LIGHTTPD_DIFFERENCES,
    ),
    Front(
        name="haproxy-tcp",
        server="haproxy",
        configure=configure_haproxy,
        sapi="fcgi-threaded",
        backend="tcp",
        options={"app": ""},
        differences=HAPROXY_DIFFERENCES,
    ),
    Front(
        name="haproxy-unix-multiplexed",
        server="haproxy",
        configure=configure_haproxy,
        sapi="fcgi-prefork",
        # HAProxy sends no PATH_INFO for the mount itself, so the server has to know the mount.
        backend="unix",
        mount="/mount",
        options={
            "app": """
    option mpxs-conns
    option get-values
    option max-reqs 8
    path-info ^(/mount)(/.*)?$
"""
        },
        differences=HAPROXY_DIFFERENCES,
    ),
    Front(
        name="haproxy-tcp-multiplexed",
        server="haproxy",
        configure=configure_haproxy,
        sapi="fcgi-threaded",
        backend="tcp",
        options={"app": "option mpxs-conns\n    option get-values\n    option max-reqs 8"},
        differences=HAPROXY_DIFFERENCES,
    ),
    *(
        _nginx_scgi(transport, buffering)
        for transport in ("unix", "tcp")
        for buffering in ("on", "off")
    ),
    Front(
        name="apache-scgi-unix",
        server="apache",
        configure=configure_apache,
        sapi="scgi-prefork",
        backend="scgi-unix",
        mount="/mount",
        # Without it Apache drops the Content-Length unless the whole response comes at once.
        options={
            "modules": "proxy proxy_scgi",
            "scheme": "scgi",
            "more": "SetEnv ap_trust_cgilike_cl 1",
        },
    ),
    Front(
        name="apache-scgi-tcp",
        server="apache",
        configure=configure_apache,
        sapi="scgi-threaded",
        backend="scgi-tcp",
        # Without it Apache drops the Content-Length unless the whole response comes at once.
        options={
            "modules": "proxy proxy_scgi",
            "scheme": "scgi",
            "more": "SetEnv ap_trust_cgilike_cl 1",
        },
    ),
    Front(
        name="apache-ajp-unix",
        server="apache",
        configure=configure_apache,
        sapi="ajp-prefork",
        backend="ajp-unix",
        mount="/mount",
        options={
            "modules": "proxy proxy_ajp",
            "scheme": "ajp",
            "more": "SetEnv ap_trust_cgilike_cl 1",
        },
    ),
    Front(
        name="apache-ajp-tcp",
        server="apache",
        configure=configure_apache,
        sapi="ajp-threaded",
        backend="ajp-tcp",
        options={
            "modules": "proxy proxy_ajp",
            "scheme": "ajp",
            "parameters": "secret=between-us ping=1",
            "more": "SetEnv ap_trust_cgilike_cl 1",
        },
    ),
    Front(
        name="lighttpd-scgi-unix",
        server="lighttpd",
        configure=configure_lighttpd,
        sapi="scgi-prefork",
        backend="scgi-unix-unmended",
        mount="/mount",
        options={
            "module": "mod_scgi",
            "site": """
            scgi.server = ("/mount" => (("socket" => "{socket}", "check-local" => "disable")))
            """,
        },
        differences=LIGHTTPD_DIFFERENCES,
    ),
    Front(
        name="lighttpd-scgi-tcp",
        server="lighttpd",
        configure=configure_lighttpd,
        sapi="scgi-threaded",
        backend="scgi-tcp",
        options={
            "module": "mod_scgi",
            "site": """
            scgi.server = ("/" => (
                ("host" => "{host}", "port" => {port}, "check-local" => "disable")
            ))
            """,
        },
        differences=LIGHTTPD_DIFFERENCES,
    ),
)


# Rows that only the tests of sent files use.
SENDFILE_FRONTS: tuple[Front, ...] = (
    Front(
        name="nginx-x-accel-redirect",
        server="nginx",
        configure=configure_nginx,
        sapi="fcgi-prefork",
        backend="x-accel-redirect",
        mount="/mount",
        options={
            "keep_conn": "off",
            "buffering": "on",
            "more": "location /protected/ { internal; alias {directory}/files/; }",
        },
    ),
    Front(
        name="lighttpd-x-sendfile",
        server="lighttpd",
        configure=configure_lighttpd,
        sapi="fcgi-prefork",
        backend="x-sendfile",
        mount="/mount",
        options={
            "site": """
            fastcgi.server = ("/mount" => ((
                "socket" => "{socket}",
                "check-local" => "disable",
                "x-sendfile" => "enable",
                "x-sendfile-docroot" => ("{directory}/files"),
            )))
            """
        },
    ),
)


def script_text(app: str, python: str = sys.executable) -> str:
    """The three lines that serve an application wherever the file is started."""
    module, attribute = APPS[app].split(":")
    return (
        f"#!{python}\n"
        "from sapi_adapters import run\n"
        f"from {module} import {attribute}\n"
        f"run({attribute})\n"
    )
