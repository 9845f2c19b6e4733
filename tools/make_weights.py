"""Make the folders regpre_nb/weights: an encoder from a pretraining run, and the network for any two images.

    python tools/make_weights.py train RUN    # the network, on random pairs alone; goes on where it stopped
    python tools/make_weights.py pack RUN     # both, with their cards
"""
import argparse
import hashlib
import json
from pathlib import Path

from regpre_nb.compare.any_pair import AnyPairSettings, train_any_pair
from regpre_nb.data.files import read_table
from regpre_nb.learn.finetune import load_network, transfer_encoder
from regpre_nb.learn.training import TrainSettings, read_log, read_metadata
from regpre_nb.learn.weights import from_pretrained, save_pretrained
from regpre_nb.method.swin import settings_named
from regpre_nb.method.transmorph import TransMorph

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / 'regpre_nb' / 'weights'
PRETRAINED = ROOT / 'results' / 'night-hippocampus' / 'runs' / 'pretrain-sd-kl-0a96d365'  # 6,000 random pairs, seed 0
TRAINING = TrainSettings(12_000, learning_rate=1e-3, precision='bf16', log_every=50, validate_every=500,
                         checkpoint_every=250)
SCALES = 2, 1  # by how much the images are shrunk when the network is asked, one after the other


def train(folder: Path) -> None:
    "The network, from the pretrained encoder."
    import torch
    torch.manual_seed(TRAINING.seed)
    network = TransMorph(settings_named('small', time_steps=6))
    transfer_encoder(network, PRETRAINED / 'encoder.safetensors')
    train_any_pair(network, AnyPairSettings(), TRAINING, folder, pretrained=PRETRAINED.name, scales=SCALES)


def card(title: str, text: str, facts: dict) -> str:
    "A model card."
    rows = '\n'.join(f'| {name} | {value} |' for name, value in facts.items())
    head = '---\nlicense: apache-2.0\ntags: [medical, image-registration]\n---'
    return f'{head}\n\n# {title}\n\n{text}\n\n| | |\n|---|---|\n{rows}\n'


NOT_FOR = 'Not a medical device: not for diagnosis, planning or any other clinical use.'
LICENCE = {'licence': 'Apache 2.0'}


def pack_encoder() -> None:
    "The encoder of a pretraining run of profile `night`."
    path = PRETRAINED / 'encoder.safetensors'
    record, seconds = read_metadata(path), json.loads((PRETRAINED / 'made_from.json').read_bytes())['seconds']
    text = ('The encoder of TransMorph (small), pretrained by registering pairs of random images, as the paper '
            '"Pretraining Deformable Image Registration Networks with Random Images" (MIDL 2025) proposes: Perlin '
            f'noise, shapes, two random diffeomorphic warps, self-distillation. No real image was seen. {NOT_FOR}')
    facts = {'run': PRETRAINED.name, 'seed': record['training']['seed'], 'random pairs': record['training']['steps'],
             'time': f'{seconds / 60:.0f} minutes on a part of one H200 GPU', 'data': 'random images only',
             'size of a pair': ' x '.join(map(str, record['pretraining']['shape'])),
             'what it is worth': 'results/night-hippocampus: undecided with all cases and with a tenth of them'}
    save_pretrained(from_pretrained(path), TARGET / 'random-encoder',
                    card('Encoder pretrained on random images', text, facts | LICENCE),
                    **{name: record[name] for name in ('pretraining', 'training', 'score')})


def scores() -> dict[str, str]:
    "What `benchmarks/two_images.py` measured on real images, one row a cohort."
    path = ROOT / 'results' / 'bench' / 'two_images.csv'
    if not path.exists(): return {}
    table = read_table(path, ('score',))
    alone = table[table['method'] == 'network'].groupby('data')['score'].agg(['mean', 'count'])
    what = {True: 'mean Dice {:.3f}', False: 'error of landmarks {:.2f} mm'}
    return {f'{data}, network alone': f"{what[row['mean'] > 0].format(abs(row['mean']))}, {row['count']:.0f} test pairs"
            for data, row in alone.iterrows()}


def pack_network(run: Path) -> None:
    "The network for any two images."
    path = run / 'model.safetensors'
    record, log = read_metadata(path), read_log(run / 'log.jsonl')
    text = ('A TransMorph (small, 6 steps) that registers two images which it has never seen the like of. Trained on '
            'pairs of random images alone, of many sizes and amplitudes, half of them of one contrast and half of two; '
            'it starts from the encoder beside it. `regpre register` asks it at half and at full resolution, and '
            f'improves what it says for the pair at hand. {NOT_FOR}')
    made = json.dumps([record['task'], record['training'], record['pretrained']], sort_keys=True)
    facts = {'run': hashlib.sha256(made.encode()).hexdigest()[:8],
             'seed': record['training']['seed'], 'random pairs': record['training']['steps'],
             'time': f"{log['seconds'].max() / 3600:.1f} hours on one CPU core that was shared",
             'data': 'random images only', 'encoder': record['pretrained'],
             'score on random pairs': f"loss lower by {record['score']:.4f}"}
    kept = {name: record[name] for name in ('task', 'training', 'score', 'pretrained', 'scales')}
    text = card('Registration network for any two images', text, facts | scores() | LICENCE)
    save_pretrained(load_network(path), TARGET / 'any-pair', text, **kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=('train', 'pack'))
    parser.add_argument('run', type=Path, help='folder of the run')
    asked = parser.parse_args()
    if asked.what == 'train': return train(asked.run)
    pack_encoder()
    pack_network(asked.run)


if __name__ == '__main__': main()
