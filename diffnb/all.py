"Every public name of the library: `from diffnb.all import *` at the top of a notebook"
from importlib import import_module

modules = 'data angle schedules oracle samplers trajectories embedding unet denoiser checkpoints training fld guidance editing generation cli'.split()
__all__ = []
for _module in (import_module(f'.{name}', __package__) for name in modules):
    globals().update({name: getattr(_module, name) for name in _module.__all__})
    __all__ += _module.__all__
