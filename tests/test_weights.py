"The weights that come with the package: whole, with cards; and what a hub is asked."
import json

import pytest
import torch
from commands import regpre
from test_bad_input import refused

from regpre_nb.learn import weights
from regpre_nb.learn.weights import CARD, CONFIG, WEIGHTS, from_pretrained, packaged_weights, push_to_hub
from regpre_nb.method.settings import InputError


@pytest.mark.parametrize('name', ['any-pair', 'random-encoder'])
def test_cards(name):
    "Each card says what it must."
    card = (packaged_weights()[name] / CARD).read_text()
    for word in ('seed', 'random pairs', 'time', 'random images only', 'licence', 'Not a medical device'):
        assert word in card
    config = json.loads((packaged_weights()[name] / CONFIG).read_text())
    assert len(config['sha256']) == 64


def test_random_images_suffice():
    "The network, trained on random images alone, brings a known pair together."
    from regpre_nb.compare.any_pair import AnyPairSettings, any_pair_validation
    network = from_pretrained('any-pair')
    with torch.no_grad(): gain = any_pair_validation(AnyPairSettings(validation_pairs=6), seed=7)(network)['score']
    assert gain > 0.02  # of loss; pairs that training did not see


@pytest.fixture
def copy(tmp_path):
    "A copy of the smaller folder, to be spoilt."
    folder = tmp_path / 'copy'
    folder.mkdir()
    for path in packaged_weights()['random-encoder'].iterdir(): (folder / path.name).write_bytes(path.read_bytes())
    return folder


def cut_short(folder):
    "Without the file that would say how long the weights are."
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    (folder / CONFIG).unlink()


@pytest.mark.parametrize('spoil, said', [
    (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000]), 'cut short'),
    (lambda folder: (folder / WEIGHTS).write_bytes(b'PK'), 'cut short'),
    (lambda folder: (folder / CONFIG).write_text('not JSON'), 'cannot be read as JSON'),
    (lambda folder: (folder / CONFIG).write_text('['), 'cannot be read as JSON'),
    (lambda folder: (folder / CONFIG).write_text('[]'), 'is not the JSON'),
    (cut_short, 'is damaged'),
    (lambda folder: (folder / WEIGHTS).unlink(), 'no weights'),
    (lambda folder: [path.unlink() for path in folder.iterdir()], 'no weights')])
def test_spoilt_folders(copy, spoil, said):
    spoil(copy)
    with pytest.raises(InputError, match=said): from_pretrained(copy)


def test_spoilt_folder_by_command(copy):
    (copy / WEIGHTS).write_bytes(b'PK')
    (copy / 'a.nii.gz').write_bytes(b'')
    refused(regpre('register', 'a.nii.gz', 'a.nii.gz', '-o', 'o.nii.gz', '--model', copy, cwd=copy), 'a.nii.gz')


class Hub:
    "A hub that remembers what it was asked."
    def __init__(self, folder=None): self.asked, self.folder = [], folder
    def HfApi(self): return self

    def create_repo(self, name, **options):
        self.asked.append(('create', name, options))
        return f'https://hub/{name}'

    def upload_folder(self, **options): self.asked.append(('upload', options['repo_id'], options['folder_path']))

    def snapshot_download(self, name, **options):
        if self.folder is None: raise OSError('no network')
        return self.folder


def test_hub(monkeypatch, copy):
    "A stand-in for the hub: what is sent, what is fetched, and what is said where it fails. No real hub was asked."
    hub = Hub(copy)
    monkeypatch.setattr(weights, '_hub', lambda: hub)
    assert push_to_hub(copy, 'me/mine', private=True) == 'https://hub/me/mine'
    assert [what for what, *_ in hub.asked] == ['create', 'upload'] and hub.asked[0][2]['private']
    assert type(from_pretrained('me/mine')).__name__ == 'SwinEncoder'
    monkeypatch.setattr(weights, '_hub', lambda: Hub())
    with pytest.raises(InputError, match='could not be fetched from the hub'): from_pretrained('me/none')
