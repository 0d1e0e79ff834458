"Diffusion models from scratch. Names are loaded on first use, so that `import diffnb` is light"
__version__ = "0.2.0"

_homes = {
    'data': 'Images batches moons s_curve show_points spiral',
    'angle': 'Guess aim mix rates targets unmix',
    'oracle': 'ideal labelled mixture score',
    'schedules': 'cosine cosine_beta flow from_betas karras linear_beta lognormal path '
                 'plot_schedules rescale',
    'samplers': 'Step ddim ddpm dpmpp heun last refresh seeded',
    'trajectories': 'compare show_paths slider strip',
    'unet': 'MLP UNet',
    'denoiser': 'Denoiser channel_stats',
    'training': 'EMA label_dropout show_losses train',
    'fld': 'FLD kid nearest',
    'guidance': 'clamp given guide interval project steer',
    'editing': 'data_consistency inpaint invert repaint_path sdedit_path slerp',
    'few_steps': 'TurnUNet Turner as_turner turns',
    'kit.curves': 'schedule',
    'kit.pictures': 'save_gif show_images to_float to_uint8',
    'kit.scrubber': 'scrubber_html',
    'apps.datasets': 'hold_out load_data stream',
    'apps.checkpoints': 'load save',
    'apps.runs': 'fit',
    'apps.generation': 'generate trajectory',
    'apps.playground': 'playground',
}
names = {name: module for module, those in _homes.items() for name in those.split()}
_modules = {module.split('.')[0] for module in _homes}


def __getattr__(name):
    from importlib import import_module
    if name in names: return getattr(import_module(f'{__name__}.{names[name]}'), name)
    if name in _modules: return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__(): return sorted({*globals(), *names, *_modules})
