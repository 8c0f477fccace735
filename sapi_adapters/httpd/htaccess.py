"""Configuration files in the directories they are for (.htaccess), where AllowOverride permits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..sapi import ConfigurationError
from .config import Parameters, Reader, execute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .core import DirConfig
    from .module import Vector
    from .records import Request

_MOST = 1000
"""Files that are remembered."""


def sections_of(
    r: Request, directory: str, config: DirConfig, names: Sequence[str]
) -> list[Vector] | int:
    """Return what the files *names* in *directory* configure, or the status to answer with.

    A file is read again when it has changed. One that cannot be read or understood makes the
    directory inaccessible, as what it was to forbid is not known.
    """
    for name in names:
        path = os.path.join(directory, name)
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            r.log(f"{path}: {error.strerror}: unable to check htaccess file, ensure it is readable")
            return 403
        known = r.host.htaccess
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino, config.override, id(r.server))
        found = known.get(path)
        if found is None or found[0] != stamp:
            vector: Vector = {}
            try:
                tree = Reader(r.host, config.override).read_file(path)
                for directive in tree:
                    execute(
                        Parameters(
                            r.host,
                            r.server,
                            directive,
                            config.override,
                            vector,
                            directory,
                            ".htaccess",
                            info={"options": config.override_options},
                        )
                    )
            except ConfigurationError as error:
                r.log(str(error), "alert")
                return 500
            if len(known) >= _MOST:
                known.clear()
            found = known[path] = (stamp, vector)
        return [found[1]]
    return []
