"Every public name of the library: `from diffnb.all import *` at the top of a notebook"
from .data import *
from .angle import *
from .schedules import *
from .oracle import *
from .samplers import *
from .trajectories import *
from .embedding import *
from .unet import *
from .denoiser import *
from .checkpoints import *
from .training import *
