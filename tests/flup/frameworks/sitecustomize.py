"""Python runs this before every program here: it puts the shim where the program looks for flup.

The programs know nothing of it.  With FLUP_INSTALLED set, flup is a distribution on the path.
"""

import atexit
import os
import sys


def tell() -> None:
    """Say at the end whose servers the program imported; the tests read it."""
    found = {
        f"imported {module.WSGIServer.__module__}"
        for name, module in sys.modules.items()
        if "flup.server." in name and hasattr(module, "WSGIServer")
    }
    print("\n".join(sorted(found)), file=sys.stderr, flush=True)


atexit.register(tell)

if "FLUP_INSTALLED" not in os.environ:
    from sapi_adapters.flup import install

    install()
