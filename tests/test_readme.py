"The README's own lines, run as they stand (with less training)"
import json
import re
import subprocess
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def test_the_eight_lines_run(tmp_path):
    text = (root/'README.md').read_text(encoding='utf-8')
    code = '\n'.join(re.findall(r'^```python\n(.*?)^```', text, re.M | re.S))
    short = re.sub(r'steps=\d+', 'steps=3', code, count=1)
    assert short != code and len(code.splitlines()) <= 12
    short += '\nx = steps[-1].x\nassert x.shape == (16, 1, 16, 16) and x.isfinite().all()'
    r = subprocess.run([sys.executable, '-c', short], capture_output=True, text=True, cwd=tmp_path,
                       timeout=300)
    assert r.returncode == 0, r.stderr


def test_every_make_target_that_it_names_exists():
    targets = set(re.findall(r'^([a-z-]+):', (root/'Makefile').read_text(), re.M))
    texts = [(root/f).read_text(encoding='utf-8') for f in ('README.md', 'CONTRIBUTING.md')]
    named = {t for text in texts for t in re.findall(r'`?make ([a-z-]+)', text)}
    named -= {'makes', 'git'}
    assert named and named <= targets, named - targets


def test_extras_are_quoted_as_every_shell_reads_them():
    "zsh expands bare brackets, PowerShell splits at a bare comma, cmd keeps single quotes"
    for name in ('README.md', 'CONTRIBUTING.md'):
        extras = re.findall(r'-e (\S*\[[^]`]*\S*)', (root/name).read_text(encoding='utf-8'))
        assert extras and all(re.match(r'"\.\[[a-z,]+\]"', e) for e in extras), (name, extras)


def test_every_file_that_it_names_exists():
    text = (root/'README.md').read_text(encoding='utf-8')
    files = re.findall(r'\]\((nbs/[^)]+)\)', text) + re.findall(r'blob/main/([^)]+)\)', text)
    assert files and not [f for f in files if not (root/f).exists()]


def test_its_figures_are_those_of_the_results():
    "Every measured figure that stands in results/, rounded as the README has it"
    def result(name): return json.loads((root/'results'/f'{name}.json').read_text(encoding='utf-8'))
    speed = {k: f"{v['images_per_second']:.0f}"
             for k, v in result('training')['images per second'].items()}
    loss = {k: f"{v['loss']:.3f}" for k, v in result('training')['rows'].items()}
    step = {k: f'{v:.0f} µs' for k, v in result('samplers')['microseconds_per_step'].items()}
    many, best = result('cli')['rows'][-1], result('mnist')['shipped']['mnist']
    one_call = result('turns')['turns']['guided, 1']
    key = {k: f"{result('scrubber')[k]['median_ms']:.0f} ms" for k in ('jupyterlab', 'html_file')}
    text = (root/'README.md').read_text(encoding='utf-8')
    def reach(who, error):
        images = result('training')['images until an error'][who]['images'][f'{error} raw']
        return f"{images/result('training')['images per second'][who]['images_per_second']:.0f}"
    first, then = ([reach(who, error) for who in ('ours, float32', 'diffusers', 'smalldiffusion')]
                   for error in ('0.06', '0.05'))
    told = [
        f'our default network took {first[0]} s, diffusers {first[1]} s and smalldiffusion '
        f'{first[2]} s; until 0.05 it was {then[0]}, {then[1]} and {then[2]} s',
        f"FLD% {one_call['percent']:.2f} ± {one_call['percent_se']:.2f} with {one_call['n']:,} "
        'digits',
        f"{speed['ours, bf16, Muon']} images/s (bfloat16), {speed['ours, float32, Muon']} "
        '(float32)',
        f"diffusers {speed['diffusers']}, smalldiffusion {speed['smalldiffusion']}, "
        f"denoising-diffusion-pytorch {speed['denoising_diffusion_pytorch']} |",
        f"DDIM {step['diffnb ddim with unmix']}, DPM-Solver++ {step['diffnb dpmpp with unmix']}",
        f"DDIM of diffusers {step['diffusers DDIM']}, of smalldiffusion {step['smalldiffusion']}",
        f"| {many['seconds']:.0f} s, at most {many['peak_mb']} MB |",
        f"{best['fld']:.2f} ± {best['se']:.2f} (n = {best['n']:,}, seed {best['sampling_seed']}); "
        f"real digits {best['floor']:.2f}",
        f"| {result('fld')['seconds']['the whole Score']:.1f} s |",
        f"{loss['diffusers']} against our {loss['ours, default network and precision']}",
        f"{key['jupyterlab']} in JupyterLab, {key['html_file']} in its HTML file"]
    assert [t for t in told if t not in text] == []
