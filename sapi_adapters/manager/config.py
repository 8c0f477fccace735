"""What a master and its pools are told, with php-fpm's names: the settings alone.

A directive ``pm.max_children`` is the field ``pm_max_children``. Fields hold values, not text:
times are seconds, sizes bytes, switches bool. The command line's flags fill the same fields.

Every worker imports this file. What is needed only to fill the fields stands in others:
``configfile.py`` reads and writes the file, ``directives.py`` has the table of what may stand in
it, ``values.py`` what a value may be, and ``rules.py`` what has to fit together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STATIC, DYNAMIC, ONDEMAND = "static", "dynamic", "ondemand"


@dataclass
class Global:
    """The section ``[global]``: what concerns the master."""

    pid: str | None = None
    error_log: str | None = None
    """A file, ``"syslog"``, or None for standard error."""
    syslog_ident: str = "sapi-adapters"
    syslog_facility: str = "daemon"
    log_buffering: bool = True
    log_level: str = "notice"
    log_limit: int = 1024
    """Bytes of one line of worker output that are kept together."""
    emergency_restart_threshold: int = 0
    emergency_restart_interval: float = 0.0
    process_control_timeout: float = 30.0
    """How long a worker has to finish after QUIT; 0 is not at all."""
    process_max: int = 0
    process_priority: int | None = None
    daemonize: bool = False
    rlimit_files: int | None = None
    rlimit_core: int | None = None
    """-1 is unlimited."""
    systemd_interval: float = 10.0
    pools: list[Pool] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list, compare=False)
    """What reading and checking have to say to the operator, for the log."""
    given: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Where a directive was given: its name to ``"file:line"``."""


@dataclass
class Pool:
    """One pool's section. Zero is "no limit" or "off" where nothing else is said."""

    name: str = "www"
    app: str = ""
    """``"module:attribute"``; empty only where the application is an object already."""
    interface: str = "auto"
    factory: bool = False
    sapi: str = "fcgi-prefork"
    threads: int | None = None
    """Threads of each worker; None is what the SAPI thinks right."""
    python_path: tuple[str, ...] = ()
    script_name: str | None = None
    scgi_max_headers: int = 65536
    """Bytes that the head of an SCGI request may have."""
    scgi_strict: bool = True
    """Whether an SCGI request without SCGI=1 is refused."""
    ajp_secret: str | None = None
    ajp_packet_size: int = 8192
    ajp_allowed_attributes: str | None = None
    """A regular expression: request attributes of AJP that become variables of the request."""
    ajp_remote_user: bool = False
    """Whether the user that an AJP web server names is believed."""
    prefix: str | None = None

    user: str | None = None
    group: str | None = None
    listen: str | None = None
    """A path, ``host:port`` or a port; None where a socket is inherited."""
    listen_backlog: int = 2048
    listen_owner: str | None = None
    listen_group: str | None = None
    listen_mode: int = 0o660
    listen_acl_users: tuple[str, ...] = ()
    listen_acl_groups: tuple[str, ...] = ()
    listen_allowed_clients: tuple[str, ...] = ()
    """IP addresses; empty is everybody. TCP only."""

    process_priority: int | None = None
    process_dumpable: bool = False
    pm: str = STATIC
    pm_max_children: int = 1
    pm_start_servers: int = 0
    """Of dynamic; 0 becomes min + (max - min) / 2."""
    pm_min_spare_servers: int = 0
    pm_max_spare_servers: int = 0
    pm_max_spawn_rate: int = 32
    pm_process_idle_timeout: float = 10.0
    pm_start_timeout: float = 60.0
    """How long a worker may take until it accepts; 0 is for ever."""
    pm_max_requests: int = 0
    pm_max_requests_jitter: int = 0
    """Up to so many requests less, chosen by each worker, so that not all leave at once."""
    pm_max_memory: int = 0
    """Resident bytes above which a worker is replaced."""
    pm_status_path: str | None = None
    pm_status_listen: str | None = None
    ping_path: str | None = None
    ping_response: str = "pong"

    access_log: str | None = None
    access_format: str = '%R - %u %t "%m %r" %s'
    access_suppress_path: tuple[str, ...] = ()
    slowlog: str | None = None
    request_slowlog_timeout: float = 0.0
    request_slowlog_trace_depth: int = 20
    request_terminate_timeout: float = 0.0
    request_terminate_timeout_track_finished: bool = False

    rlimit_files: int | None = None
    rlimit_core: int | None = None
    chroot: str | None = None
    chdir: str | None = None
    umask: int | None = None
    catch_workers_output: bool | None = None
    """True: what a worker prints goes to the error log. False: to /dev/null. None: it is left."""
    decorate_workers_output: bool = True
    clear_env: bool = False
    env: dict[str, str] = field(default_factory=dict)
    env_from: dict[str, str] = field(default_factory=dict)
    """Which values of *env* were taken from the master's environment, and from which variable."""
    warnings: list[str] = field(default_factory=list, compare=False)
    given: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """As :attr:`Global.given`; the section's own place is under the empty name."""
