"""The names that people use most, in one line: `from diffnb.all import *`. Everything else is
reached through its module"""
from importlib import import_module

from . import names

__all__ = list(names)
for name, module in names.items():
    globals()[name] = getattr(import_module(f'.{module}', __package__), name)
