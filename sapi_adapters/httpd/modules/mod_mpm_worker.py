"""mod_mpm_worker: several threads in each process, each with one request at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hooks import FIRST
from ..module import Module
from .mod_mpm_prefork import THREADED, check_threaded, chosen

if TYPE_CHECKING:
    from ..hooks import Hooks


def _register(hooks: Hooks) -> None:
    hooks.add("pre_config", chosen("worker"), order=FIRST)
    hooks.add("check_config", check_threaded)


mpm_worker_module = Module("mod_mpm_worker", commands=THREADED, register_hooks=_register)
