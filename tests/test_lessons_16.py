"What the lesson on the transformer relies on and does not show"
import importlib
import json
from pathlib import Path

import pytest
import torch
from tables import cells, source
from torch import nn
from torch.testing import assert_close

from diffnb.apps.checkpoints import load, save
from diffnb.denoiser import Denoiser
from diffnb.guidance import guide
from diffnb.kit.exercises import judge
from diffnb.samplers import ddim, dpmpp, heun, last
from diffnb.schedules import cosine, cosine_beta, path
from diffnb.transformer import TokenAttention, Transformer, TransformerBlock, positions

root = Path(__file__).parent.parent
sizes = {'DiT-S/2': (384, 12, 6), 'DiT-B/2': (768, 12, 12),
         'DiT-L/2': (1024, 24, 16), 'DiT-XL/2': (1152, 28, 16)}


def alive(**settings):
    "A small network none of whose parts is zero"
    torch.manual_seed(0)
    net = Transformer(1, patch=2, width=32, depth=2, **settings)
    for p in net.parameters():
        if not p.any(): nn.init.normal_(p, std=.2)
    return net


@pytest.mark.parametrize('name', list(sizes))
def test_published_sizes(name):
    width, depth, heads = sizes[name]
    by_hand = (depth*(18*width**2 + 15*width) + 16*width + width            # blocks, patches
               + 256*width + width + width**2 + width + 1001*width          # angle, label
               + 2*width**2 + 2*width + 32*width + 32)                      # last
    with torch.device('meta'):
        net = Transformer(4, 2, width, depth, heads, classes=1000)
        net.last = nn.Linear(width, 32)
    assert sum(p.numel() for p in net.parameters()) == by_hand
    if name == 'DiT-XL/2': assert by_hand + 256*width == 675_129_632


def weights_for_diffusers(net, depth):
    "The weights of a Transformer by the names of diffusers' DiTTransformer2DModel"
    ours, theirs = net.state_dict(), {}

    def copied(there, here, change=lambda t: t):
        for part in 'weight', 'bias':
            if f'{here}.{part}' in ours: theirs[f'{there}.{part}'] = change(ours[f'{here}.{part}'])

    copied('pos_embed.proj', 'cut')
    for k in range(depth):
        block, emb = f'transformer_blocks.{k}', f'transformer_blocks.{k}.norm1.emb'
        copied(f'{block}.norm1.linear', f'blocks.{k}.modulate')
        for i, part in enumerate('qkv'):
            copied(f'{block}.attn1.to_{part}', f'blocks.{k}.attend.qkv', lambda t: t.chunk(3)[i])
        copied(f'{block}.attn1.to_out.0', f'blocks.{k}.attend.out')
        copied(f'{block}.ff.net.0.proj', f'blocks.{k}.mlp.0')
        copied(f'{block}.ff.net.2', f'blocks.{k}.mlp.2')
        copied(f'{emb}.timestep_embedder.linear_1', 'embed.angle.mlp.0',      # cosines come first
               lambda t: t.roll(128, 1) if t.ndim == 2 else t)
        copied(f'{emb}.timestep_embedder.linear_2', 'embed.angle.mlp.2')
        copied(f'{emb}.class_embedder.embedding_table', 'embed.label.rows',   # "no label" is last
               lambda t: t.roll(-1, 0))
    copied('proj_out_1', 'modulate')
    copied('proj_out_2', 'last')
    return theirs


def test_the_answers_are_those_of_diffusers_dit():
    diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed')
    torch.manual_seed(0)
    net = Transformer(4, patch=2, width=32, depth=3, heads=4, classes=5)
    for p in net.parameters(): nn.init.normal_(p, std=.2)
    other = diffusers.DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, num_layers=3, sample_size=12,
        num_embeds_ada_norm=5, norm_eps=1e-6).eval()
    other.load_state_dict(weights_for_diffusers(net, 3))
    x, step = torch.randn(3, 4, 12, 12), torch.tensor([1., 20., 300.])
    with torch.no_grad():
        ours = net(x, step*torch.pi/2000, torch.tensor([0, 4, -1]))
        theirs = other(x, step, torch.tensor([0, 4, 5])).sample
    assert ours.std() > 1
    assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_positions_by_hand():
    "Rows and columns, each as half sines and half cosines of w_i = 10000^(-i/(width/4))"
    where = positions(3, 5, 16).double()
    w = 10_000**(-torch.arange(4).double()/4)
    for row in range(3):
        for col in range(5):
            half = [torch.cat([(k*w).sin(), (k*w).cos()]) for k in (col, row)]
            assert_close(where[row*5 + col], torch.cat(half), atol=1e-6, rtol=0)


def test_attention_by_hand():
    torch.manual_seed(0)
    layer, x = TokenAttention(8, heads=2), torch.randn(3, 5, 8)
    q, k, v = layer.qkv(x).chunk(3, -1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weight = (q[..., part]@k[..., part].mT/2).softmax(-1)
        heads.append(weight@v[..., part])
    assert_close(layer(x), layer.out(torch.cat(heads, -1)), atol=1e-6, rtol=1e-5)


def test_block_by_hand():
    "Scale, shift, gate in DiT's order"
    torch.manual_seed(0)
    block, x, emb = TransformerBlock(8, heads=2), torch.randn(2, 5, 8), torch.randn(2, 8)
    assert block(x, emb).equal(x)
    nn.init.normal_(block.modulate.weight)
    shift1, scale1, gate1, shift2, scale2, gate2 = block.modulate(
        emb*emb.sigmoid())[:, None].chunk(6, -1)
    norm = nn.LayerNorm(8, eps=1e-6, elementwise_affine=False)
    h = x + gate1*block.attend(norm(x)*(1 + scale1) + shift1)
    h = h + gate2*block.mlp(norm(h)*(1 + scale2) + shift2)
    assert_close(block(x, emb), h)


def test_everything_has_a_say():
    net, x = alive(classes=3), torch.randn(2, 1, 8, 8)
    phi, y = torch.tensor([.3, 1.]), torch.tensor([0, 2])
    base = net(x, phi, y)
    for other in (net(x, phi + .2, y), net(x, phi, y.flip(0)), net(x, phi),
                  net(x.roll(2, dims=3), phi, y).roll(-2, dims=3)):
        assert (other - base).abs().mean() > 1e-3
    assert net(x, phi).equal(net(x, phi, torch.tensor([-1, -1])))


def test_items_do_not_see_each_other():
    net, x, phi = alive(), torch.randn(3, 1, 8, 12), torch.rand(3)
    assert_close(net(x, phi)[1:2], net(x[1:2], phi[1:2]), atol=1e-5, rtol=1e-5)


def test_patches_come_back_in_place():
    net = Transformer(3, patch=4, width=32)
    x = torch.randn(2, 3, 8, 12)
    pieces = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(2, 6, 48)
    assert net.paste(pieces, 2, 3).equal(x)


@pytest.mark.parametrize('target', ['x0', 'eps', 'v'])
@pytest.mark.parametrize('sampler', [ddim, dpmpp, heun])
def test_it_goes_with_targets_samplers_and_guidance(target, sampler):
    model = Denoiser(alive(classes=3), target, cosine)
    x = torch.randn(2, 1, 8, 8)
    out = last(sampler(guide(model, torch.tensor([0, 2]), 2.), x, path(cosine, 4))).x
    assert out.shape == x.shape and out.isfinite().all()


@pytest.mark.parametrize('settings', [
    dict(classes=3), dict(extra=1), dict(kind='timestep', schedule=cosine_beta(T=50))])
def test_saved_and_loaded(tmp_path, settings):
    model = Denoiser(alive(**settings), 'v', cosine, shape=(1, 8, 8))
    save(tmp_path/'dit.safetensors', model)
    x, phi = torch.randn(2, 1 + settings.get('extra', 0), 8, 8), torch.rand(2)
    again = load(tmp_path/'dit.safetensors')
    assert again.net(x, phi).equal(model.net(x, phi))


def test_bfloat16_and_gradients():
    net, x, phi = alive(), torch.randn(2, 1, 8, 8), torch.rand(2)
    with torch.autocast('cpu', torch.bfloat16):
        near = net(x, phi)
    assert_close(near.float(), net(x, phi), atol=.2, rtol=.1)
    net(x, phi).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize('call, says', [
    (lambda: Transformer(1, width=30, heads=5), '4'),
    (lambda: Transformer(1, width=32, heads=5), '5 heads'),
    (lambda: Transformer(1, patch=0), 'patch=0'),
    (lambda: Transformer(1, patch=4)(torch.randn(1, 1, 6, 8), torch.rand(1)), 'multiples of 4'),
    (lambda: Transformer(1)(torch.randn(1, 3, 8, 8), torch.rand(1)), r'\(B, 1, H, W\)'),
    (lambda: Transformer(1)(torch.randn(1, 1, 8, 8), torch.rand(1), torch.tensor([0])),
     'without labels')])
def test_mistakes_are_refused(call, says):
    with pytest.raises(ValueError, match=says): call()


@pytest.mark.parametrize('number, right, wrong', [
    (1, (4, 16), [(2, 4), (4, 4)]),
    (2, lambda w, d: d*(18*w**2 + 15*w), [lambda w, d: d*18*w**2, lambda w, d: d*(12*w**2 + 9*w)]),
    (3, {'last'}, [{'last', 'blocks'}, {'cut'}])])
def test_exercises(number, right, wrong):
    assert judge('transformer', number, right) is None
    assert all(judge('transformer', number, answer) for answer in wrong)


def test_the_tables_say_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(root/'benchmarks'))
    benchmark = importlib.import_module('transformer')
    record = json.loads((root/'results'/'transformer.json').read_text(encoding='utf-8'))
    text = [source(c) for c in cells('16_transformer.ipynb')]
    shown = [benchmark.parts_table(record)]
    if 'digits' in record: shown.append(benchmark.small_table(record))
    if 'rows' in record: shown.append(benchmark.table(record))
    for table in shown: assert table.count('\n') > 2 and any(table in t for t in text), table


def test_the_price_of_a_step_is_what_was_measured():
    record = json.loads((root/'results'/'transformer.json').read_text(encoding='utf-8'))
    text = (root/'nbs'/'16_transformer.ipynb').read_text(encoding='utf-8')
    pace = record['pace']['digits']
    assert f'costs {pace["ratio"]:.1f} times as much' in text
    assert f'between {pace["least"]:.1f} and {pace["most"]:.1f};' in text
    u, t = (record['digits'][f'{name}, 1000 digits, seed 0']['steps']
            for name in ('U-Net', 'transformer'))
    assert .97 < pace['ratio']*u/t < 1.03                     # equal minutes
