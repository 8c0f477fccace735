"""Runs a program that knows nothing of us: ``run.py WHICH FILE ARGUMENTS``."""

from __future__ import annotations

import runpy
import sys

from program import use

use(sys.argv[1])
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
