"""Networks in and out of diffusers, checked against what diffusers itself answered
(tests/exchange.safetensors)"""
import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from diffnb.angle import Guess
from diffnb.apps.checkpoints import load, save
from diffnb.apps.exchange import (
    ddpm_of, differences, from_diffusers, from_sigma, layer_names, obstacles, push_to_hub,
    schedule_of, scheduler_config, step_angles, to_diffusers, to_sigma, untranslated)
from diffnb.apps.families import DDPMUNet, families
from diffnb.apps.generation import generate
from diffnb.denoiser import Denoiser
from diffnb.guidance import clamp, guide, project
from diffnb.kit.files import header
from diffnb.oracle import mixture
from diffnb.samplers import ddim, ddpm, heun, last
from diffnb.schedules import cosine, cosine_beta, flow, karras, linear_beta, path, rescale
from diffnb.unet import UNet

record = Path(__file__).parent/'exchange.safetensors'
told = json.loads(header(record)['__metadata__']['diffnb'])
tensors = load_file(record)


def weights(name):
    return {k.removeprefix(f'{name}.weights.'): t
            for k, t in tensors.items() if k.startswith(f'{name}.weights.')}


def theirs(folder, name, **changed):
    "A folder as `save_pretrained` of diffusers wrote it"
    for part, file in (('unet', 'config'), ('scheduler', 'scheduler_config')):
        (folder/part).mkdir(parents=True)
        config = told['configs'][name][part] | (changed if part == 'unet' else {})
        (folder/part/f'{file}.json').write_text(json.dumps(config))
    save_file(weights(name), folder/'unet'/'diffusion_pytorch_model.safetensors')
    return folder


def answer(model, name, y=None):
    at = step_angles(model.schedule)[told['steps']]
    return model.predict(tensors[f'{name}.x'], at, y)


# In

def test_the_weights_of_ddpm_answer_as_they_did_there(tmp_path):
    model = from_diffusers(theirs(tmp_path/'in', 'ddpm'))
    assert type(model.net) is DDPMUNet and model.target == 'eps' and model.shape == (1, 8, 8)
    assert model.notes['sampling'] == dict(clip=True, spacing='leading')
    assert_close(answer(model, 'ddpm'), tensors['ddpm.answers'], rtol=0, atol=1e-5)
    again = load(save(tmp_path/'one.safetensors', model))
    assert answer(again, 'ddpm').equal(answer(model, 'ddpm'))


@pytest.mark.parametrize('null, y', [(4, [0, 1, 2, 3, -1]), (None, [0, 1, 2, 3, 4]),
                                     (0, [-1, 1, 2, 3, 4]), (0, [0, 1, 2, 3, 4])])
def test_labels_keep_their_numbers(tmp_path, null, y):
    model = from_diffusers(theirs(tmp_path, 'classes'), null=null)
    assert model.classes == (4 if null == 4 else 5)
    assert_close(answer(model, 'classes', torch.tensor(y)), tensors['classes.answers'], rtol=0,
                 atol=1e-5)


@pytest.mark.parametrize('changed', [dict(norm_eps=.01), dict(downsample_padding=1),
                                     dict(freq_shift=0), dict(flip_sin_to_cos=True),
                                     dict(attention_head_dim=4)])
def test_every_setting_is_heard(tmp_path, changed):
    "A setting that is misread must be seen in the answers: else the tests above prove nothing"
    model = from_diffusers(theirs(tmp_path, 'ddpm', **changed))
    assert (answer(model, 'ddpm') - tensors['ddpm.answers']).abs().max() > 1e-4


def test_skips_lie_behind(tmp_path):
    model = from_diffusers(theirs(tmp_path, 'ddpm'))
    model.net.levels.skip_first = True
    assert (answer(model, 'ddpm') - tensors['ddpm.answers']).abs().max() > 1e-4


def test_old_names_and_old_folders_are_read(tmp_path):
    "Before 2023 attention had other names, and all files lay in one folder"
    new = theirs(tmp_path/'new', 'ddpm')
    flat = tmp_path/'old'
    flat.mkdir()
    for f in [*new.rglob('*.json')]: f.rename(flat/f.name)
    old = {'to_q.': 'query.', 'to_k.': 'key.', 'to_v.': 'value.', 'to_out.0.': 'proj_attn.'}
    def renamed(k):
        for a, b in old.items(): k = k.replace(a, b)
        return k
    save_file({renamed(k): t for k, t in weights('ddpm').items()},
              flat/'diffusion_pytorch_model.safetensors')
    assert_close(answer(from_diffusers(flat), 'ddpm'), tensors['ddpm.answers'], rtol=0, atol=1e-5)


def test_they_can_be_trained_on(tmp_path):
    model = from_diffusers(theirs(tmp_path, 'classes'), null=4).train()
    model.loss(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, -1, 3])).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_all_timesteps_are_told_whole():
    """float32 cannot say an angle near 90 degrees so exactly that the timestep is whole again; the
    network hears it whole"""
    for schedule in (linear_beta, cosine_beta, rescale, linear_beta(T=200)):
        net = DDPMUNet(1, schedule, width=8, mults=(1,), blocks=1, groups=4)
        at = step_angles(schedule)
        assert net.embed.angle.steps(at.float()).tolist() == list(range(len(at)))
    between = (at[3] + at[4])/2
    assert 3.4 < net.embed.angle.steps(between[None]).item() < 3.6


def test_guidance_is_the_same_in_one_batch_and_in_two(tmp_path):
    torch.manual_seed(0)
    model = from_diffusers(theirs(tmp_path, 'classes'), null=4)
    x, y = torch.randn(3, 1, 8, 8), torch.tensor([2, 0, 1])
    twice = torch.cat([model.predict(x, .5), model.predict(x, .5, y)])
    doubled = model.predict(torch.cat([x, x]), .5, torch.cat([torch.full_like(y, -1), y]))
    assert_close(doubled, twice, rtol=0, atol=1e-6)
    assert (twice[:3] - twice[3:]).abs().max() > 1e-3
    assert guide(model, 1, 2.)(x, .5).x0.shape == x.shape


def test_where_every_item_had_a_label_none_is_an_error(tmp_path):
    model, x = from_diffusers(theirs(tmp_path, 'classes')), torch.zeros(2, 1, 8, 8)
    for y in (None, torch.tensor([-1, 2])):
        with pytest.raises(ValueError, match='always wants a label.*null=4'): model(x, .5, y)
    with pytest.raises(ValueError, match='null=5 is not one of the 5 rows'):
        from_diffusers(tmp_path, null=5)


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(ValueError, match='do not fit their config: '):
        from_diffusers(theirs(tmp_path/'a', 'ddpm', layers_per_block=2))
    with pytest.raises(ValueError, match='do not fit their config: embed.label.rows.weight'):
        from_diffusers(theirs(tmp_path/'b', 'classes', num_class_embeds=None))
    extra = weights('ddpm') | {'add_embedding.weight': torch.zeros(1)}
    save_file(extra, theirs(tmp_path/'e', 'ddpm')/'unet'/'diffusion_pytorch_model.safetensors')
    with pytest.raises(ValueError, match='says nothing of add_embedding.weight'):
        from_diffusers(tmp_path/'e')
    with pytest.raises(ValueError, match='holds a UNet2DConditionModel'):
        from_diffusers(theirs(tmp_path/'c', 'ddpm', _class_name='UNet2DConditionModel'))
    with pytest.raises(ValueError, match='is no folder'): from_diffusers(str(tmp_path/'d'))
    with pytest.raises(ValueError, match='list is no pipeline'): from_diffusers([1])
    latent = SimpleNamespace(components=dict(unet=1, scheduler=2, vqvae=3, feature_extractor=None))
    with pytest.raises(ValueError, match='also has vqvae, and'): from_diffusers(latent)


class Told(nn.Module):
    "Called like the UNet of Stable Diffusion: wants a text too"
    def forward(self, sample, timestep, encoder_hidden_states, class_labels=None): return sample


def test_a_network_that_wants_more_is_refused_with_what_works():
    scheduler = SimpleNamespace(betas=torch.linspace(1e-4, .02, 1000),
                                config=dict(prediction_type='epsilon'))
    says = r'wants encoder_hidden_states.*forward\(x, t\)'
    with pytest.raises(ValueError, match=f'^Told {says}'): from_diffusers(Told(), scheduler)
    parts = dict(unet=Told(), scheduler=scheduler, vae=nn.Identity())
    with pytest.raises(ValueError, match=f'also has vae.*{says}'):
        from_diffusers(SimpleNamespace(components=parts, **parts))
    with pytest.raises(ValueError, match='a function has no weights.*nn.Module'):
        from_diffusers(lambda x, t: x, scheduler)
    net = Told()
    net.forward = lambda x, t: x
    assert from_diffusers(net, scheduler).predict(torch.ones(1, 1, 2, 2), .5).eq(1).all()


@pytest.mark.parametrize('kind, clip', [('PNDMScheduler', False), ('DDIMScheduler', True),
                                        ('DDPMScheduler', True)])
def test_only_some_schedulers_clip_unless_told(kind, clip):
    scheduler = type(kind, (), dict(betas=torch.linspace(1e-4, .02, 1000),
                                    config=dict(prediction_type='epsilon')))()
    assert from_diffusers(nn.Identity(), scheduler).notes['sampling']['clip'] is clip


def ddpm_with(noise):
    "DDPM, with noise from a list (none is left for the last step, which takes no share of it)"
    def sample(denoise, x, angles, var='small'):
        fresh = iter(noise)
        return ddpm(denoise, x, angles, var, lambda z: next(fresh, torch.zeros_like(z)))
    return sample


def test_a_pipeline_with_the_larger_variance_draws_the_same_here(tmp_path):
    "DDPMPipeline with fixed_large, as diffusers drew it (benchmarks/exchange.py record)"
    folder, (start, *noise) = theirs(tmp_path, 'ddpm'), tensors['large.noise']
    fname = folder/'scheduler'/'scheduler_config.json'
    fname.write_text(json.dumps({**json.loads(fname.read_text()), 'variance_type': 'fixed_large'}))
    model = from_diffusers(folder)
    how = dict(start=start, seeds=0, sampler=ddpm_with(noise), calls=len(noise) + 1, progress=False)
    drawn = generate(model, 2, **how, **model.notes['ddpm'])
    assert_close(drawn/2 + .5, tensors['large.images'], rtol=0, atol=1e-5)
    other = generate(model, 2, **how, **model.notes['sampling'])
    assert (other/2 + .5 - tensors['large.images']).abs().max() > .01
    again = load(save(tmp_path/'one.safetensors', model, **model.notes))
    assert again.notes['ddpm'] == model.notes['ddpm']


def test_a_pipeline_of_diffusers_with_the_larger_variance(tmp_path):
    diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed')
    ours = small(target='eps', schedule=linear_beta)
    pipe = diffusers.DDPMPipeline.from_pretrained(to_diffusers(ours, tmp_path))
    pipe.set_progress_bar_config(disable=True)
    for kind in ('fixed_large', 'fixed_small'):
        pipe.scheduler = diffusers.DDPMScheduler(variance_type=kind)
        g = torch.Generator().manual_seed(1)
        theirs = pipe(2, generator=g, num_inference_steps=20, output_type='pt').images
        g = torch.Generator().manual_seed(1)
        start, *noise = (torch.randn(2, 1, 8, 8, generator=g) for _ in range(20))
        model = from_diffusers(pipe)
        drawn = generate(model, 2, start=start, seeds=0, sampler=ddpm_with(noise), calls=20,
                         progress=False, **model.notes['ddpm'])
        assert_close(drawn/2 + .5, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize('kind, var', [
    ('fixed_small', 'small'), ('fixed_small_log', 'small'), ('fixed_large', 'large'),
    ('fixed_large_log', 'large'), ('learned_range', 'small'), (None, 'small')])
def test_the_variance_of_a_scheduler(kind, var):
    found = ddpm_of(dict(variance_type=kind, clip_sample=False, timestep_spacing='trailing'))
    assert found == dict(clip=False, spacing='trailing', var=var)
    assert ddpm_of({})['var'] == 'small'


def test_a_transformer_of_diffusers_with_labels_stays_theirs():
    diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed')
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=1,
        sample_size=8, patch_size=2, num_embeds_ada_norm=10, norm_type='ada_norm_zero').eval()
    for p in net.parameters(): nn.init.normal_(p, std=.1)
    model = from_diffusers(net, diffusers.DDIMScheduler(clip_sample=False), null=10)
    x, y = torch.randn(3, 4, 8, 8), torch.tensor([0, 9, -1])
    def asked(*labels):
        labels = torch.tensor(labels)
        with torch.no_grad():
            return net(x, torch.tensor([499]*3), class_labels=labels).sample[:, :4]

    theirs = asked(0, 9, 10)
    assert model.predict(x, step_angles(model.schedule)[499], y).equal(theirs)
    assert (theirs - asked(1, 9, 10))[0].abs().max() > 1e-4


def test_what_stays_theirs_needs_diffusers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    with pytest.raises(ValueError, match="time_embedding_type='fourier'.*pip install diffusers"):
        from_diffusers(theirs(tmp_path, 'ddpm', time_embedding_type='fourier'))


def test_a_pickle_is_refused_unopened(tmp_path):
    folder = theirs(tmp_path, 'ddpm')
    (folder/'unet'/'diffusion_pytorch_model.safetensors').unlink()
    with pytest.raises(ValueError, match='is not there'): from_diffusers(folder)
    (folder/'unet'/'diffusion_pytorch_model.bin').write_bytes(b'cos\nsystem\n(S"echo no"\ntR.')
    with pytest.raises(ValueError, match='a pickle, which could run any program'):
        from_diffusers(folder)


def test_without_a_network_the_hub_says_so(monkeypatch):
    def offline(name, **how): raise ConnectionError('no route to host')
    monkeypatch.setitem(sys.modules, 'huggingface_hub', SimpleNamespace(snapshot_download=offline))
    says = 'google/ddpm-cifar10-32.*could not be fetched.*no route.*give the folder of a copy'
    with pytest.raises(ValueError, match=says): from_diffusers('google/ddpm-cifar10-32')
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ValueError, match='pip install huggingface_hub'):
        from_diffusers('google/ddpm-cifar10-32')


def test_the_hub_is_asked_for_no_pickle(monkeypatch, tmp_path):
    asked = {}
    def fetch(name, allow_patterns):
        asked[name] = allow_patterns
        return str(theirs(tmp_path, 'ddpm'))
    monkeypatch.setitem(sys.modules, 'huggingface_hub', SimpleNamespace(snapshot_download=fetch))
    model = from_diffusers('somebody/digits')
    assert type(model.net) is DDPMUNet
    assert asked['somebody/digits']
    assert not any('bin' in p or p == '*' for p in asked['somebody/digits'])


# Schedules

def test_betas_by_name():
    assert schedule_of({}) == linear_beta(T=1000, beta=(1e-4, .02))
    assert schedule_of(dict(beta_schedule='squaredcos_cap_v2')) == cosine_beta(T=1000)
    assert schedule_of(dict(trained_betas=[.1, .2])).T == 2
    with pytest.raises(ValueError, match="beta_schedule 'no' is not known: choose one of linear"):
        schedule_of(dict(beta_schedule='no'))


@pytest.mark.parametrize('kind', ['sigmoid', 'exp', 'laplace'])
def test_betas_without_a_name_here(kind):
    "Against the definitions, number by number"
    T, beta = 50, []
    def abar(t):
        if kind == 'exp': return math.exp(-12*t)
        snr = math.exp(-.5*math.copysign(1, .5 - t)*math.log(1 - 2*abs(.5 - t) + 1e-6))
        return math.sqrt(snr/(1 + snr))
    for i in range(T):
        if kind == 'sigmoid': beta.append(1/(1 + math.exp(6 - 12*i/(T - 1)))*(.02 - 1e-4) + 1e-4)
        else: beta.append(min(1 - abar((i + 1)/T)/abar(i/T), .999))
    cosines = step_angles(schedule_of(dict(beta_schedule=kind, num_train_timesteps=T))).cos()
    assert_close(cosines**2, (1 - torch.tensor(beta).double()).cumprod(0), rtol=1e-6, atol=1e-9)


def test_zero_terminal_snr_reaches_noise_and_wants_v(tmp_path):
    stretched = dict(rescale_betas_zero_snr=True)
    assert schedule_of(stretched)(1.) == math.pi/2
    scheduler = SimpleNamespace(betas=torch.linspace(1e-4, .02, 1000),
                                config=dict(prediction_type='epsilon'))
    assert from_diffusers(nn.Identity(), scheduler).schedule == linear_beta(
        T=1000, beta=(1e-4, .02))
    scheduler.betas = torch.cat([scheduler.betas[:-1], torch.ones(1)])
    with pytest.raises(ValueError, match="target='v'"): from_diffusers(nn.Identity(), scheduler)
    scheduler.config = dict(prediction_type='v_prediction', clip_sample=False,
                            timestep_spacing='trailing')
    model = from_diffusers(nn.Identity(), scheduler)
    assert model.schedule(1.) == math.pi/2
    assert model.notes['sampling'] == dict(clip=False, spacing='trailing')


def test_a_config_that_lies_about_its_betas_is_not_believed():
    scheduler = SimpleNamespace(betas=torch.full((1000,), .01), config=dict(beta_schedule='linear'))
    model = from_diffusers(nn.Identity(), scheduler)
    assert_close(model.schedule(1.).cos(), torch.tensor(.99).double()**500, rtol=1e-4, atol=0)


# Settings of a scheduler

def scheduler_of(kind='DDIMScheduler', **config):
    return type(kind, (), dict(betas=torch.linspace(1e-4, .02, 1000), config=config))()


@pytest.mark.parametrize('kind, config, remedy', [
    ('CogVideoXDDIMScheduler', dict(snr_shift_scale=3.), 'trained_betas'),
    ('EulerDiscreteScheduler', dict(timestep_type='continuous', prediction_type='v_prediction'),
     'module whose forward(x, t)'),
    ('DPMSolverMultistepScheduler', dict(use_flow_sigmas=True, prediction_type='flow_prediction'),
     "Denoiser(Flow(net), 'flow', flow)"),
    ('DDPMScheduler', dict(predict_epsilon=False), "say prediction_type='sample'")])
def test_a_setting_that_changes_what_the_network_is_asked_is_refused(kind, config, remedy):
    name, value = next(iter(config.items()))
    says = f'{re.escape(f"{kind} has {name}={value!r}: ")}.*{re.escape(remedy)}'
    with pytest.raises(ValueError, match=says):
        from_diffusers(nn.Identity(), scheduler_of(kind, **config))


lost = [
    (dict(steps_offset=1), 'DDIMScheduler', 'give the sampler their path'),
    (dict(set_alpha_to_one=False), 'DDIMScheduler', 'give the sampler their path'),
    (dict(timestep_spacing='linspace'), 'DDPMScheduler', "'leading' is the same"),
    (dict(clip_sample_range=2.), 'DDPMScheduler', 'project(model, clamp((-2.0, 2.0)))'),
    (dict(sample_max_value=3., thresholding=True), 'DDIMScheduler', 'clip=True only cuts'),
    (dict(dynamic_thresholding_ratio=.9, sample_max_value=3., thresholding=True), 'DDIMScheduler',
     'project(model, dynamic(0.9))'),
    (dict(variance_type='learned_range'), 'DDPMScheduler', "var='small'"),
    (dict(variance_type='fixed_large', timestep_spacing='trailing'), 'DDPMScheduler',
     "with timestep_spacing='leading'")]


@pytest.mark.parametrize('config, kind, remedy', lost)
def test_a_setting_that_only_their_sampler_reads_is_a_warning(config, kind, remedy):
    name, value = next(iter(config.items()))
    says = f'{re.escape(f"{name}={value!r}: ")}.*{re.escape(remedy)}'
    with pytest.warns(UserWarning, match=f"the pipeline's, whose scheduler has .*{says}"):
        model = from_diffusers(nn.Identity(), scheduler_of(kind, **config))
    assert any(re.match(says, sentence) for sentence in model.notes['untranslated'])


@pytest.mark.parametrize('kind, config', [
    ('DDPMScheduler', {}), ('DDIMScheduler', {}), ('PNDMScheduler', dict(set_alpha_to_one=False)),
    ('DDPMScheduler', dict(variance_type='fixed_large')),
    ('DDPMScheduler', dict(timestep_spacing='trailing')),
    ('DDIMScheduler', dict(steps_offset=1, timestep_spacing='trailing')),
    ('DDIMScheduler', dict(variance_type='learned_range', snr_shift_scale=1)),
    ('DDIMScheduler', dict(clip_sample=False, clip_sample_range=5.)),
    ('DDIMScheduler', dict(thresholding=True, dynamic_thresholding_ratio=.9, clip_sample_range=5.)),
    ('EulerDiscreteScheduler', dict(timestep_spacing='linspace', timestep_type='discrete',
                                    use_karras_sigmas=False, clip_sample_range=5.)),
    ('EulerDiscreteScheduler', dict(timestep_type='continuous')),
    ('DPMSolverMultistepScheduler', dict(timestep_spacing='linspace', use_flow_sigmas=False)),
    ('DDPMScheduler', dict(predict_epsilon=True)),
    ('DDPMScheduler', dict(predict_epsilon=False, prediction_type='sample'))])
def test_the_usual_settings_are_no_matter(kind, config):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = from_diffusers(nn.Identity(), scheduler_of(kind, **config))
    assert 'untranslated' not in model.notes


def test_no_scheduler_is_at_fault_as_diffusers_makes_it():
    diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed')
    kinds = ('DDPM DDIM PNDM EulerDiscrete EulerAncestralDiscrete DPMSolverMultistep '
             'DPMSolverSinglestep UniPCMultistep LCM')
    for kind in kinds.split():
        scheduler = getattr(diffusers, f'{kind}Scheduler')()
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert 'untranslated' not in from_diffusers(nn.Identity(), scheduler).notes, kind


@pytest.mark.parametrize('config', [
    dict(steps_offset=1, timestep_spacing='leading'), dict(use_karras_sigmas=True),
    dict(use_exponential_sigmas=True), dict(use_beta_sigmas=True)])
def test_what_we_do_not_redraw_is_noted_without_a_warning(config):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = from_diffusers(nn.Identity(), scheduler_of('EulerDiscreteScheduler', **config))
    name = next(iter(config))
    assert [sentence.split('=')[0] for sentence in model.notes['untranslated']] == [name]


def changed_scheduler(folder, **config):
    "A folder of theirs with other settings of its scheduler"
    fname = theirs(folder, 'ddpm')/'scheduler'/'scheduler_config.json'
    fname.write_text(json.dumps({**json.loads(fname.read_text()), **config}))
    return folder


def test_the_scheduler_of_a_folder_is_looked_at_too(tmp_path):
    with pytest.warns(UserWarning, match='steps_offset=1') as said:
        model = from_diffusers(changed_scheduler(tmp_path/'a', steps_offset=1))
    assert said[0].filename == __file__
    again = load(save(tmp_path/'one.safetensors', model, **model.notes))
    assert again.notes['untranslated'] == model.notes['untranslated']
    with pytest.raises(ValueError, match='predict_epsilon=False'):
        from_diffusers(changed_scheduler(tmp_path/'b', predict_epsilon=False))


def test_thresholding_by_at_most_one_is_a_cut():
    assert from_diffusers(nn.Identity(), scheduler_of(thresholding=True)).notes['sampling'] == dict(
        clip=True, spacing='leading')
    with pytest.warns(UserWarning, match='sample_max_value'):
        model = from_diffusers(nn.Identity(), scheduler_of(thresholding=True, sample_max_value=2.))
    assert model.notes['sampling']['clip'] == 'dynamic'


def as_drawn_there(folder, calls=20, **config):
    "Their DDIM images, the pipeline, and the noise it began with"
    diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed')
    unet = diffusers.UNet2DModel.from_pretrained(theirs(folder, 'ddpm'), subfolder='unet')
    pipe = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler(**config))
    pipe.set_progress_bar_config(disable=True)
    images = pipe(2, generator=torch.Generator().manual_seed(1), num_inference_steps=calls,
                  output_type='pt', use_clipped_model_output=True).images
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return images, pipe, noise


@pytest.mark.parametrize('config', [dict(steps_offset=1), dict(set_alpha_to_one=False),
                                    dict(steps_offset=1, set_alpha_to_one=False)])
def test_their_own_path_draws_their_images(tmp_path, config):
    images, pipe, noise = as_drawn_there(tmp_path, **config)
    with pytest.warns(UserWarning, match='their path'): model = from_diffusers(pipe)
    other = generate(model, 2, start=noise, seeds=0, sampler=ddim, calls=20, progress=False,
                     **model.notes['sampling'])
    angles = step_angles(model.schedule)
    end = angles[:1] if 'set_alpha_to_one' in config else torch.zeros(1)
    stops = torch.cat([angles[pipe.scheduler.timesteps], end])
    with torch.no_grad(): x = last(ddim(project(model, clamp()), noise, stops)).x
    assert_close((x/2 + .5).clamp(0, 1), images, rtol=0, atol=1e-5)
    assert (other/2 + .5 - images).abs().max() > 1e-3


def test_their_own_limit_draws_their_images(tmp_path):
    images, pipe, noise = as_drawn_there(tmp_path, clip_sample_range=2.)
    with pytest.warns(UserWarning, match='clip_sample_range'): model = from_diffusers(pipe)
    drawn = generate(project(model, clamp((-2., 2.))), 2, start=noise, seeds=0, sampler=ddim,
                     calls=20, progress=False, clip=False, spacing='leading')
    assert_close((drawn/2 + .5).clamp(0, 1), images, rtol=0, atol=1e-5)


@pytest.mark.parametrize('config', [dict(thresholding=True), dict(timestep_spacing='trailing')])
def test_what_is_translated_draws_their_images(tmp_path, config):
    images, pipe, noise = as_drawn_there(tmp_path, **config)
    model = from_diffusers(pipe)
    drawn = generate(model, 2, start=noise, seeds=0, sampler=ddim, calls=20, progress=False,
                     **model.notes['sampling'])
    assert_close(drawn/2 + .5, images, rtol=0, atol=1e-5)


@pytest.mark.parametrize('config, warns', [
    (dict(), False), (dict(variance_type='fixed_large'), False),
    (dict(clip_sample=False, timestep_spacing='trailing'), False),
    (dict(timestep_spacing='linspace'), True),
    (dict(thresholding=True, sample_max_value=2.), True)])
def test_how_a_pipeline_samples_goes_out_as_it_came_in(tmp_path, config, warns):
    folder = changed_scheduler(tmp_path/'in', **config)
    assert warns == bool(untranslated(json.loads(
        (folder/'scheduler'/'scheduler_config.json').read_text())))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = from_diffusers(folder)
        out = to_diffusers(model, tmp_path/'out')
        assert from_diffusers(out).notes['ddpm'] == model.notes['ddpm']
    written = json.loads((out/'scheduler'/'scheduler_config.json').read_text())
    for k, value in config.items():
        if k != 'sample_max_value': assert written[k] == value


def test_what_no_note_says_goes_out_as_usual(tmp_path):
    said = scheduler_config(small())
    assert (said['clip_sample'], said['timestep_spacing'], said['variance_type']) == (
        True, 'trailing', 'fixed_small')
    assert scheduler_config(small(), clip=False)['clip_sample'] is False
    model = from_diffusers(changed_scheduler(tmp_path, clip_sample=False))
    assert scheduler_config(model)['clip_sample'] is False
    assert scheduler_config(model, clip=True)['clip_sample'] is True


def test_a_pipeline_with_the_larger_variance_draws_the_same_after_its_round_trip(tmp_path):
    diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed')
    model = from_diffusers(changed_scheduler(tmp_path/'in', variance_type='fixed_large'))
    pipe = diffusers.DDPMPipeline.from_pretrained(to_diffusers(model, tmp_path/'out'))
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config.variance_type == 'fixed_large'
    images = pipe(2, generator=torch.Generator().manual_seed(7), num_inference_steps=10,
                  output_type='pt').images
    assert_close(images, tensors['large.images'], rtol=0, atol=1e-5)


# Out

def small(kind=DDPMUNet, target='v', schedule=cosine_beta, shape=(1, 8, 8), model={}, **more):
    torch.manual_seed(0)
    base = dict(width=8, mults=(1, 2), blocks=1, groups=4, dropout=0., attention=(1,))
    if kind is DDPMUNet: base['schedule'] = schedule
    else: base = {**families['adm'], **base, 'attention_args': dict(groups=more.get('groups', 4))}
    return Denoiser(kind(1, **{**base, **more}), target, schedule, shape=shape, **model)


def test_what_came_in_goes_out_as_it_was(tmp_path):
    out = to_diffusers(from_diffusers(theirs(tmp_path/'in', 'ddpm')), tmp_path/'out')
    moved, was = load_file(out/'unet'/'diffusion_pytorch_model.safetensors'), weights('ddpm')
    assert set(moved) == set(was) and all(moved[k].equal(t) for k, t in was.items())
    config = json.loads((out/'unet'/'config.json').read_text())
    for k in ('block_out_channels', 'down_block_types', 'up_block_types', 'norm_eps', 'freq_shift',
              'downsample_padding', 'sample_size', 'flip_sin_to_cos', 'attention_head_dim',
              'layers_per_block', 'norm_num_groups', 'time_embedding_type'):
        assert config[k] == told['configs']['ddpm']['unet'][k], k
    assert not obstacles(config)


@pytest.mark.parametrize('more', [
    dict(), dict(eps=1e-5, border='around', shift=0.), dict(block='AdaGNBlock', head_dim=4),
    dict(classes=3), dict(classes=3, always=True), dict(table=True),
    dict(schedule=linear_beta, target='eps'), dict(schedule=rescale(schedule=linear_beta(T=100)))])
def test_out_and_in_again_is_the_same_model(tmp_path, more):
    model = small(**more)
    y = torch.tensor([0, 2]) if 'classes' in more else None
    back = from_diffusers(to_diffusers(model, tmp_path))
    assert back.schedule == model.schedule and back.target == model.target
    x, phi = torch.randn(2, 1, 8, 8), step_angles(model.schedule)[[3, 90]]
    assert back.predict(x, phi, y).equal(model.predict(x, phi, y))
    if y is not None and 'always' not in more:
        none = torch.tensor([-1, 1])
        assert back.predict(x, phi, none).equal(model.predict(x, phi, none))


@pytest.mark.parametrize('more', [dict(groups=1), dict(mults=(1, 1)), dict(groups=1, told='sigma'),
                                  dict(groups=1, schedule=cosine, classes=2, null=False)])
def test_a_plain_unet_goes_out_by_way_of_a_table(tmp_path, more):
    "Its skips are moved behind, and what it is told of the noise becomes a row for each timestep"
    model = small(lambda c, told='angle', **o: UNet(c, kind=told, **o), **more)
    back = from_diffusers(to_diffusers(model, tmp_path))
    at = step_angles(model.schedule, 1000)
    x, y = torch.randn(1000, 1, 8, 8), torch.arange(1000) % 3 - 1 if 'classes' in more else None
    assert back.net.o.table
    assert (back.predict(x, at, y) - model.predict(x, at, y)).abs().max() < 2e-5


def test_what_differs_is_listed_in_full(tmp_path):
    def says(*args, **more): return '; '.join(differences(small(*args, **more)))
    plain = lambda c, **o: UNet(c, **o)
    assert says() == ''
    assert 'flow' in says(target='flow') and 'mean and std' in says(model=dict(std=.5))
    assert 'shape=None' in says(shape=None) and 'do not halve evenly' in says(shape=(1, 9, 8))
    assert 'the norms of 2 blocks' in says(plain)
    assert 'head_dim=None' in says(heads=2, attention=(0, 1)) and 'head_dim=32' in says(head_dim=32)
    assert says(heads=2) == ''
    assert "down='pool'" in says(down='pool') and "act='GELU'" in says(plain, act='GELU')
    other = Denoiser(small().net, 'v', cosine, shape=(1, 8, 8))
    assert 'another schedule' in '; '.join(differences(other))
    what = "block='ResBlock', where theirs is 'PreNormBlock' or 'AdaGNBlock'; .*mid_attention"
    with pytest.raises(ValueError, match=what):
        to_diffusers(load('mnist'), tmp_path/'no')
    assert not (tmp_path/'no').exists()


class Api:
    def create_repo(self, name, **how):
        self.how = how
        return f'https://hub/{name}'

    def upload_folder(self, repo_id, folder_path):
        self.files = {f.relative_to(folder_path).as_posix(): f.read_bytes()
                      for f in Path(folder_path).rglob('*.*')}


def test_what_goes_to_the_hub():
    api, model = Api(), small(classes=3)
    how = dict(private=True, api=api, license='mit')
    assert push_to_hub(model, 'me/it', 'My notes.', **how) == 'https://hub/me/it'
    assert api.how['private'] is True
    card = api.files['README.md'].decode()
    assert 'unet/config.json' in api.files and 'My notes.' in card and '3 classes' in card
    assert 'library_name: diffusers' in card
    assert card.startswith('---\nlicense: mit\n')
    assert '\npipeline_tag: unconditional-image-generation\n---' in card
    push_to_hub(load('mnist'), 'me/mnist', api=api)
    assert set(api.files) == {'README.md', 'model.safetensors'}
    assert 'library_name: diffnb' in api.files['README.md'].decode()


def test_without_huggingface_hub_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ValueError, match='pip install huggingface_hub'):
        push_to_hub(small(), 'me/it')


def test_no_layer_is_forgotten():
    for more in (dict(), dict(mults=(1,), attention=()),
                 dict(mults=(1, 2, 2, 4), attention=(0, 2), blocks=3), dict(classes=2, table=True)):
        net = small(**more).net
        named = {f'{a}.{part}' for a, _ in layer_names(net.o) for part in ('weight', 'bias')}
        assert set(net.state_dict()) <= named
        pairs = list(layer_names(net.o))
        assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)


def test_it_loads_where_nobody_registered_it(tmp_path):
    fname = save(tmp_path/'model.safetensors', small())
    code = f'from diffnb import load; print(type(load({str(fname)!r}).net).__name__)'
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert r.stdout.strip() == 'DDPMUNet'


# Sigma

def sigma_heun(D, x, sigmas):
    "Karras et al. 2022, algorithm 2 without churn"
    for now, nxt in zip(sigmas, sigmas[1:]):
        yield x
        slope = (x - D(x, now.expand(len(x))))/now
        ahead = x + (nxt - now)*slope
        if nxt > 0: slope = (slope + (ahead - D(ahead, nxt.expand(len(x))))/nxt)/2
        x = x + (nxt - now)*slope
    yield x


@pytest.mark.parametrize('make', ['network', 'oracle'])
@torch.no_grad()
def test_the_same_trajectory_in_sigma_and_in_angles(make):
    torch.manual_seed(0)
    if make == 'network': denoise = load('mnist')
    else: denoise = mixture(torch.randn(20, 1, 28, 28).clamp(-1, 1), std=.1)
    angles, z = path(karras(sigma=(.02, 50)), 6), torch.randn(2, 1, 28, 28).double()
    mine = [step.x for step in heun(denoise, z, angles, average='eps')]
    stops = sigma_heun(to_sigma(denoise), z/angles[0].cos(), angles.tan())
    for a, b, phi in zip(mine, stops, angles): assert (a - b*phi.cos()).abs().max() < 1e-5
    other = last(ddim(from_sigma(to_sigma(denoise)), z, angles)).x
    assert (last(ddim(denoise, z, angles)).x - other).abs().max() < 1e-5


def test_sigma_one_or_for_each_item_and_labels():
    "x0 = x*(label + 2) is far from linear in sigma: a sigma that is mislaid is seen"
    seen = {}
    def denoise(x, phi, cond=None):
        seen.update(phi=phi, cond=cond)
        return Guess(x, x)
    D, x = to_sigma(denoise), torch.ones(3, 1, 2, 2)
    assert_close(D(x, 1.), x/math.sqrt(2))
    D(x, torch.tensor([1., 2., 3.]), torch.tensor([0, 1, 2]))
    assert_close(seen['phi'].tan(), torch.tensor([1., 2., 3.]).double())
    assert seen['cond'].tolist() == [0, 1, 2]
    asked = {}
    def theirs(x, sigma, *cond):
        asked.update(sigma=sigma, cond=cond)
        return x*0
    from_sigma(theirs)(x, torch.tensor([.5, .6, .7]), torch.tensor([4, 5, 6]))
    assert_close(asked['sigma'], torch.tensor([.5, .6, .7]).tan())
    assert asked['cond'][0].tolist() == [4, 5, 6]
    assert from_sigma(theirs)(x, .5).eps.mean().item() == pytest.approx(1/math.sin(.5))


def test_edms_sampler_finds_what_it_asks_for():
    D = to_sigma(Denoiser(nn.Identity(), 'v', flow))
    assert D.round_sigma(2.) == 2 and D.sigma_max > 1e10
    assert to_sigma(small()).sigma_min == pytest.approx(math.tan(cosine_beta(.001)))
    assert to_sigma(lambda x, phi: None).sigma_max == math.inf
    with pytest.raises(ValueError, match='90 degrees'):
        from_sigma(lambda x, sigma: x)(torch.ones(1, 1, 2, 2), math.pi/2)


def test_k_diffusions_heun_on_our_network(slow):
    "The samplers of k-diffusion, without the dozen packages that its other parts want"
    from importlib.util import find_spec
    spec = find_spec('k_diffusion')
    if spec is None: pytest.skip('k-diffusion is not installed')
    package = type(sys)('k_diffusion')
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules['k_diffusion'] = package
    from k_diffusion.sampling import sample_heun
    model, angles = load('mnist'), path(karras(sigma=(.02, 50)), 6)
    z = torch.randn(2, 1, 28, 28).double()
    theirs = sample_heun(to_sigma(model), z/angles[0].cos(), angles.tan(), disable=True)
    with torch.no_grad(): mine = last(heun(model, z, angles, average='eps')).x
    assert (theirs - mine).abs().max() < 1e-5
