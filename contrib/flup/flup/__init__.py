"""``flup``: the modules of ``sapi_adapters.flup`` under their old names."""

from sapi_adapters.flup import install

__all__ = ["install"]

# No module stands beside this file: install() finds them. This one is not replaced by
# ``sapi_adapters.flup``, because a lazy importer, such as Mercurial's, refuses that.
__path__: list[str] = []
install()
