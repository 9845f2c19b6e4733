"What is released: one build for all tests, looked into, installed elsewhere and used."
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser

import pytest
from conftest import ROOT

from regpre_nb.learn.weights import CARD, CONFIG, WEIGHTS

sys.path.append(str(ROOT / 'tools'))
import release  # noqa: E402


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "The source archive and the wheel."
    wheel, archive = sorted(release.build(tmp_path_factory.mktemp('dist')), key=lambda path: path.suffix, reverse=True)
    return {'wheel': wheel, 'archive': archive}


def test_wheel(built):
    "It holds the package, 8 MB of weights and no notebook, and asks for nothing that only developers need."
    with zipfile.ZipFile(built['wheel']) as wheel:
        held = {each.filename: each.file_size for each in wheel.infolist()}
        metadata = wheel.read(next(name for name in held if name.endswith('/METADATA'))).decode()
    weights = {f'regpre_nb/weights/{name}/{file}' for name in ('any-pair', 'random-encoder')
               for file in (WEIGHTS, CONFIG, CARD)}
    assert weights | {'regpre_nb/method/spatial.py'} <= held.keys()
    assert sum(held[name] for name in weights) <= 8e6
    assert {name.split('/')[0].split('-')[0] for name in held} == {'regpre_nb'}
    assert not [name for name in held if name.endswith('.ipynb')]
    needed = [line for line in re.findall(r'^Requires-Dist: (.*)$', metadata, re.M) if 'extra ==' not in line]
    names = {re.split(r'[ <>=;\[]', line)[0].lower() for line in needed}
    assert 'torch' in names and not names & set(release.TOOLS)


def test_archive(built):
    "From the source archive the package can be built again."
    with tarfile.open(built['archive']) as archive: names = {name.partition('/')[2] for name in archive.getnames()}
    assert {'setup.py', 'settings.ini', 'README.md', 'regpre_nb/method/spatial.py'} <= names


def test_installed(built, tmp_path):
    "Away from the clone the wheel registers two images; `import regpre_nb` alone brings neither PyTorch nor plots."
    site = tmp_path / 'site'
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-qq', '--no-deps', '--target', site, built['wheel']],
                   check=True)
    light = ('import sys, regpre_nb; print(regpre_nb.__file__); '
             'sys.exit(bool({"torch", "matplotlib", "pandas"} & set(sys.modules)))')
    for code in (light, release.USE.replace('LIMIT', 'float("inf")')):
        done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True,
                              env=release.os.environ | {'PYTHONPATH': str(site)})
        assert done.returncode == 0, done.stderr
        if code is light: assert done.stdout.startswith(str(site))


def test_settings_of_nbdev_3_agree():
    "pyproject.toml holds nothing but what settings.ini says."
    parser = ConfigParser(delimiters=['='])
    parser.read(ROOT / 'settings.ini', encoding='utf-8')
    known, content = parser['DEFAULT'], tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))
    assert content.keys() == {'tool'} and content['tool'].keys() == {'nbdev'}
    for name, value in content['tool']['nbdev'].items():
        said = ' '.join(value) if isinstance(value, list) else str(value)
        assert said.lower() == known[name].lower(), name
