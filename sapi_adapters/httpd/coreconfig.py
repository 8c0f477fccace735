"""What the core module keeps for servers and sections, and its record; core.py fills that in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .module import Module, Settings

if TYPE_CHECKING:
    from .records import Request, Server
    from .walks import Section

INCLUDES, INDEXES, FOLLOW_SYMLINKS, SYMLINKS_IF_OWNER, EXEC_CGI, MULTIVIEWS = (
    "Includes",
    "Indexes",
    "FollowSymLinks",
    "SymLinksIfOwnerMatch",
    "ExecCGI",
    "MultiViews",
)


class ServerConfig(Settings):
    """What core keeps for a server."""

    def __init__(self) -> None:
        self.directories: list[Section] = []
        self.locations: list[Section] = []

    document_root: str | None = None
    access_files: tuple[str, ...] = (".htaccess",)
    trace_enable = False
    server_tokens = "prod"
    merge_slashes = True
    recursion = 10
    """Internal redirects in a row (LimitInternalRecursion)."""

    def merged(self, new: ServerConfig) -> ServerConfig:
        """A virtual host's sections come after those outside of it."""
        result: ServerConfig = super().merged(new)
        result.directories = self.directories + new.directories
        result.locations = self.locations + new.locations
        return result


class DirConfig(Settings):
    """What core keeps for a section."""

    options: frozenset[str] = frozenset()
    """Directory listings and symbolic links only when they are asked for."""
    added_options: frozenset[str] = frozenset()
    removed_options: frozenset[str] = frozenset()
    override: int = 0
    """The classes of directives that .htaccess files may have."""
    override_options: frozenset[str] | None = None
    handler: str | None = None
    forced_type: str | None = None
    output_filters: tuple[str, ...] = ()
    input_filters: tuple[str, ...] = ()
    error_documents: dict[int, str] = {}  # noqa: RUF012 - replaced, never changed
    accept_path_info: bool | None = None
    encoded_slashes: str = "off"
    limit_body = 1 << 30
    use_canonical_name = False
    etag: tuple[str, ...] = ("mtime", "size")
    sendfile = True
    files: tuple[Section, ...] = ()

    def merged(self, new: DirConfig) -> DirConfig:
        result: DirConfig = super().merged(new)
        result.error_documents = {**self.error_documents, **new.error_documents}
        result.files = self.files + new.files
        if "options" not in new.__dict__:
            result.options = (self.options | new.added_options) - new.removed_options
        return result


core_module = Module(
    "core",
    create_dir_config=lambda path: DirConfig(),
    merge_dir_config=DirConfig.merged,
    create_server_config=lambda server: ServerConfig(),
    merge_server_config=ServerConfig.merged,
)
core_module.symbol = "core_module"


def options_of(request: Request) -> frozenset[str]:
    """Return the Options that hold for *request*."""
    found: DirConfig = request.per_dir_config[core_module]
    return found.options


def dir_config(request: Request) -> DirConfig:
    """Return core's configuration for *request*."""
    found: DirConfig = request.per_dir_config[core_module]
    return found


def server_config(server: Server) -> ServerConfig:
    """Return core's configuration for *server*."""
    found: ServerConfig = server.module_config[core_module]
    return found
