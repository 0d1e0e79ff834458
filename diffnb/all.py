"The names that people use most, in one line: `from diffnb.all import *`. Everything else is reached through its module"
from importlib import import_module

from . import names

__all__ = list(names)
globals().update({name: getattr(import_module(f'.{module}', __package__), name) for name, module in names.items()})
