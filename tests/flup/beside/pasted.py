"""Runs an entry point of flup's for Paste: ``pasted.py FACTORY ADDRESS``.

All values are text, as from an ini file.
"""

import sys

import applications
from flup.server import paste_factory

FACTORY, ADDRESS = sys.argv[1:]
where = {"socket": ADDRESS}
if ":" in ADDRESS:
    where = dict(zip(("host", "port"), ADDRESS.split(":"), strict=True))
size = "maxChildren" if FACTORY.endswith("fork") else "maxThreads"
getattr(paste_factory, FACTORY)(
    applications.application, {"debug": "false"}, minSpare="1", maxSpare="2", **{size: "3"}, **where
)
