"""``python -m sapi_adapters`` is the command ``serve``."""

from .commands.serve import main

main()
