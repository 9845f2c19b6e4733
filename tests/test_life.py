"The life of runs: what ends with what, what is shown while they run, and that nothing of other data is shown."
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from commands import COMMAND, case, environment, listed, regpre, save

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.data.files import only_process
from regpre_nb.paper.jobs import is_made, outdated, run_folder, train
from regpre_nb.paper.studies import study_runs
from regpre_nb.paper.tables import save_table
from regpre_nb.use.cli import _table
from regpre_nb.use.life import at_work, claim, held, how_far, jobs, known_pace, make_plan, reasons, take_back

ASKED = '--profile', 'smoke', '--data', 'folder'
FOLLOWS = 'from regpre_nb.use.life import end_with_reproduction; end_with_reproduction(".")'


@pytest.fixture
def data(tmp_path, monkeypatch):
    "A folder of own files, named by REGPRE_DATA."
    monkeypatch.setenv('REGPRE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('REGPRE_DATA', str(tmp_path / 'data'))
    return listed(tmp_path / 'data').parent


def project(tmp_path, rule):
    "A folder that passes for a clone, in which Snakemake does one thing."
    root = tmp_path / 'clone'
    root.mkdir()
    (root / 'Snakefile').write_text(f'{FOLLOWS}\nrule all:\n    output: "done.txt"\n    shell: {rule!r}\n')
    return root


def the_run(root, data='folder', label='Baseline'):
    "A run of the cohort as it is now, and the plan that it is part of."
    plan = make_plan('smoke', load_cohort(data), 0, root)
    return study_runs('2_ablation', 'smoke', plan.cohort)[label], plan


# What ends with what

@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_command(tmp_path, data, number):
    "However the command ends; and the next one is not kept from its work."
    root = project(tmp_path, f'{sys.executable} work.py')
    (root / 'work.py').write_text(f'{FOLLOWS}\nimport time; open("begun", "w"); time.sleep(10_000)')
    process = subprocess.Popen([COMMAND, 'reproduce', *ASKED, '--root', root], env=environment(REGPRE_DATA=data),
                               stderr=subprocess.PIPE, text=True, start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    while not (root / 'begun').exists() and process.poll() is None: time.sleep(0.1)
    assert process.poll() is None, process.stderr.read()
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.send_signal(number)
    said = process.communicate()[1]
    psutil.wait_procs(family)  # each of them ends
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or 'the same command goes on where it stopped' in said
    assert not held(root / 'runs' / '.reproduce') and not at_work(root)


def test_a_live_reproduction_is_not_disturbed(tmp_path, data):
    "Two reproductions at once in one folder: the second is told."
    root = project(tmp_path, 'true')
    with claim(root):
        done = regpre('reproduce', *ASKED, '--root', root, REGPRE_DATA=data)
    assert done.returncode == 2 and str(os.getpid()) in done.stderr, done.stderr
    assert not (root / 'done.txt').exists()


def test_relative_folders(tmp_path, data):
    "Folders in variables mean those of the place where the command was given; a left-over claim stops nobody."
    root = project(tmp_path, 'echo $REGPRE_DATA $REGPRE_CACHE $REGPRE_FIXTURES > {output}')
    (root / 'runs').mkdir()
    (root / 'runs' / '.reproduce').touch()
    (root / 'runs' / '.leader').write_text(str(os.getpid()))  # of a killed process, another one's now
    done = regpre('reproduce', *ASKED, '--root', 'clone', cwd=tmp_path, REGPRE_DATA='data', REGPRE_CACHE='cache',
                  REGPRE_FIXTURES='~')
    assert done.returncode == 0, done.stderr
    assert (root / 'done.txt').read_text().split() == [
        str(tmp_path / 'data'), str(tmp_path / 'cache'), os.path.expanduser('~')]


def test_logs_that_are_named_are_there(tmp_path, data):
    "What failed is named with its last words and its log; where Snakemake itself failed, with Snakemake's."
    run, plan = the_run(tmp_path / 'clone')
    log = run_folder(run, tmp_path / 'clone') / 'output.txt'
    root = project(tmp_path, f'mkdir -p {log.parent}; echo "regpre: no room [left]" > {log}; exit 1')
    done = regpre('reproduce', *ASKED, '--root', root, REGPRE_DATA=data)
    assert done.returncode == 2 and f'{run.key}: no room [left]\n    log: {log}' in done.stderr, done.stderr
    (root / 'Snakefile').write_text('nonsense nonsense\n')
    log.unlink()
    said = root / 'runs' / 'smoke-folder' / 'snakemake.txt'
    done = regpre('reproduce', *ASKED, '--root', root, REGPRE_DATA=data)
    assert done.returncode == 2 and done.stderr.rsplit('log: ', 1)[1].strip() == str(said), done.stderr
    assert 'Traceback' not in done.stderr and 'nonsense' in said.read_text()


# What is shown

def test_help_needs_no_torch():
    "What takes seconds to import waits until it is needed."
    code = 'import sys, regpre_nb.use.cli; sys.exit("torch" in sys.modules or "pandas" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], env=environment()).returncode == 0


def test_names_are_printed_as_they_are(tmp_path):
    "Brackets are no markup and bars no borders."
    import pandas as pd
    from rich.console import Console
    names = ['[red]left', '[/b]', 'a | b', 'c \\| d', '[link=x]y[/link]', 'e |', '', '_f_ `g` *h* <br> $i$']
    frame = pd.DataFrame({'method [b]': names, 'Dice': '0.5'})
    save_table(frame, frame, tmp_path, 'table', '**Here: [/b] [x] a | b.**')
    console = Console(width=150, record=True, file=open(os.devnull, 'w'))
    console.print(_table(tmp_path / 'tables' / 'table.md'))
    shown = console.export_text()
    for name in (*names, 'method [b]', '[/b] [x] a | b.'): assert name in shown, name
    assert shown.count('0.5') == len(names)


def test_status(tmp_path, data):
    "From the files alone: done, running, failed, waiting, and the time left."
    root = project(tmp_path, 'true')
    run, plan = the_run(root)
    initial = plan.runs[0]
    train(initial, root)
    failed, running = (run_folder(each, root) for each in plan.runs[1:3])
    for folder in (failed, running): folder.mkdir(parents=True)
    (failed / 'output.txt').write_text('step 1\rstep 2\nregpre: the disk [x] is full\n')
    (running / 'log.jsonl').write_text('{"step": 1, "seconds": 100.0}\n{"step": 2, "sec')
    with only_process(running):
        done = regpre('status', *ASKED, '--root', root, REGPRE_DATA=data)
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 0 and len(lines) == len(plan.runs) + len(plan.studies) + 1, done.stderr
    assert lines[initial.key].split()[1] == 'done'
    assert 'failed' in lines[failed.name] and 'the disk [x] is full' in lines[failed.name]
    assert str(failed / 'output.txt') in lines[failed.name]
    assert 'running' in lines[running.name]
    assert 'waiting' in lines['8_claims'] and 'no reproduction is under way' in done.stdout
    listed_runs = regpre('runs', *ASKED, '--root', root, REGPRE_DATA=data)
    assert [line.split()[0] for line in listed_runs.stdout.splitlines() if ' done ' in line] == [initial.key]


@pytest.mark.parametrize('damage', ['[1, 2]', 'null', '{"run": 3, "made_from": [1]}', 'cut sho'])
def test_damaged_records(tmp_path, data, damage):
    "Records that tell nothing count as none, for all who ask whether a run is done; it is not made again for that."
    run, plan = the_run(tmp_path, label='Initial')
    folder = train(run, tmp_path)
    scores = (folder / 'per_subject.csv').stat().st_mtime_ns
    assert is_made(run, tmp_path)
    plan.results.mkdir(parents=True)
    for path in (folder / 'run.json', plan.results / 'run.json'): path.write_text(damage)
    assert not is_made(run, tmp_path) and 'run.json is damaged' in reasons(plan)[run.key]
    for why in (reasons(plan), {}):
        assert 'done' not in {job.state for job in jobs(plan, known_pace(plan.runs, plan.results, tmp_path), why)}
    assert is_made(run, train(run, tmp_path).parents[2])
    assert (folder / 'per_subject.csv').stat().st_mtime_ns == scores
    for name in ('made_from.json', 'log.jsonl'): (folder / name).write_text(damage)
    assert is_made(run, tmp_path) and run.done(folder)[0] == 0 and reasons(plan)
    entries = f'{{"2_ablation": {damage}, "3_data_fraction": {{"runs": {{"a": {damage}}}}}}}'
    (plan.results / 'run.json').write_text(entries)
    assert not known_pace(plan.runs, plan.results, tmp_path).earlier


def test_runs_without_weights_are_not_made(tmp_path, data):
    "`runs` and `plan` say the same as `status` and `train`."
    run, plan = the_run(tmp_path)
    folder = train(run, tmp_path, progress=False)
    assert is_made(run, tmp_path)
    (folder / 'model.safetensors').unlink()
    assert not is_made(run, tmp_path) and 'are missing' in reasons(plan)[run.key]


def test_an_error_is_kept(data, tmp_path):
    "A run that fails says so in its folder, and no longer once it has gone on."
    run, plan = the_run(tmp_path)
    image = data / '1_image.nii.gz'
    whole = image.read_bytes()
    image.write_bytes(whole[:2000])
    broken, _ = the_run(tmp_path)
    with pytest.raises(ValueError, match='1_image'): train(broken, tmp_path, progress=False)
    state = {job.name: job for job in jobs(make_plan('smoke', load_cohort('folder'), 0, tmp_path),
                                           known_pace(plan.runs, plan.results, tmp_path))}[broken.key]
    assert state.state == 'failed' and '1_image.nii.gz' in state.error


# Other data

def relabelled(data, number):
    "Correct the label map of a case; returns what undoes it."
    path = data / f'{number}_labels.nii.gz'
    before, labels = path.read_bytes(), case(f'{number}')[1]
    save(path, np.where(labels == 1, 2, np.where(labels == 2, 1, labels)).astype(np.uint8))
    return lambda: path.write_bytes(before)


def test_other_data_are_other_runs(data, tmp_path):
    "Corrected training labels, an added case: the key differs; with the earlier data the earlier run is back."
    run, plan = the_run(tmp_path)
    folder = train(run, tmp_path, progress=False)
    record = (folder / 'run.json').read_bytes()
    parts = {'train': plan.cohort.train[0], 'test': plan.cohort.test_pairs[0][0]}
    undo = relabelled(data, parts['train'].removeprefix('case'))
    assert the_run(tmp_path)[0].key != run.key and the_run(tmp_path)[0].name == run.name
    undo()
    assert the_run(tmp_path)[0].key == run.key
    elsewhere = shutil.copytree(data, tmp_path / 'elsewhere')
    os.environ['REGPRE_DATA'] = str(elsewhere)
    assert the_run(tmp_path)[0].key == run.key
    (elsewhere / 'labels.csv').write_text('id,name\n1,one\n2,two\n')
    assert the_run(tmp_path)[0].key != run.key
    os.environ['REGPRE_DATA'] = str(data)
    again, plan = the_run(tmp_path)
    assert list(take_back(plan)) == [] and train(again, tmp_path) == folder
    assert (folder / 'run.json').read_bytes() == record


def test_other_test_data_are_scored_again(data, tmp_path):
    "By the same weights, and nothing else is done; results of the other data are gone."
    run, plan = the_run(tmp_path)
    folder = train(run, tmp_path, progress=False)
    scores, weights = (folder / 'per_subject.csv').read_bytes(), (folder / 'model.safetensors').stat().st_mtime_ns
    mark = {'fingerprint': plan.cohort.fingerprint(), 'runs': {run.key: {}}}
    for file in ('notebooks/2_ablation.ipynb', 'tables/table1.md'):
        (plan.results / file).parent.mkdir(parents=True)
        (plan.results / file).write_text('{}')
    plan.results.joinpath('run.json').write_text(json.dumps({'2_ablation': mark}))
    undo = relabelled(data, plan.cohort.test_pairs[0][0].removeprefix('case'))
    changed, plan = the_run(tmp_path)
    assert changed.key == run.key and 'other data' in reasons(plan)[run.key]
    sentences = list(take_back(plan))
    assert len(sentences) == 2 and run.key in sentences[0] and str(plan.results) in sentences[1]
    assert not (folder / 'run.json').exists() and not (plan.results / 'tables').exists()
    train(changed, tmp_path, progress=False)
    assert (folder / 'per_subject.csv').read_bytes() != scores
    assert (folder / 'model.safetensors').stat().st_mtime_ns == weights
    undo()
    train(run, tmp_path, progress=False)
    assert (folder / 'per_subject.csv').read_bytes() == scores


def test_weights_that_are_gone_are_made_again(data, tmp_path):
    "A finished run without its weights is put aside and trained again; its outcome is the same."
    run, plan = the_run(tmp_path)
    folder = train(run, tmp_path, progress=False)
    weights = (folder / 'model.safetensors').read_bytes()
    (folder / 'model.safetensors').write_bytes(b'{}')
    assert 'damaged' in outdated(run, plan.cohort, tmp_path)
    train(run, tmp_path, progress=False)
    assert (folder / 'model.safetensors').read_bytes() == weights
    assert (folder.with_name(f'{folder.name}-before-1') / 'model.safetensors').read_bytes() == b'{}'
    assert how_far([], 2) == '0 of 0 done; nothing is left'
