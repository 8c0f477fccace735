"""What ``LoadModule sapi_module sapi_adapters.adapters.mod_sapi`` loads: see mod.py."""

from .mod import sapi_module

__all__ = ["sapi_module"]
