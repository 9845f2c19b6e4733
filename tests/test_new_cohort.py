"A cohort that is not of this package: one file adds it, and everything that asks for cohorts by name finds it."
import sys
from importlib import import_module
from pathlib import Path

import pytest
from commands import environment
from conftest import long
from forked import call

from regpre_nb.data.cohorts import COHORTS, check_data, cohort_entry, cohort_names, load_cohort
from regpre_nb.method.settings import InputError
from regpre_nb.use.cli import main

ONE_FILE = '''
from functools import partial
from pathlib import Path

import numpy as np

from regpre_nb.data.cohorts import Cohort, DataReport, cohort, data_folder, problem_table, read_files
from regpre_nb.data.volumes import Volume, save_volume
from regpre_nb.method.settings import InputError

CASES = tuple(f'shell_{n}' for n in range(8))


def shell(case):
    "Image and labels of a core in a shell, whose size depends on the case, in noise."
    radius = np.linalg.norm(np.indices((32, 32, 32)) - 15.5, axis=0)
    labels = np.where(radius < 5 + int(case[-1])/2, 1, np.where(radius < 11, 2, 0)).astype(np.uint8)
    return (100*labels + np.random.default_rng(int(case[-1])).normal(50, 5, labels.shape)).astype(np.float32), labels


def convert_shells(source, target, progress):
    "Write the published files as NIfTI."
    for kind in ('image', 'labels'): (target/kind).mkdir(parents=True, exist_ok=True)
    for case in CASES:
        with np.load(source/f'{case}.npz') as arrays:
            for kind, voxels in arrays.items(): save_volume(Volume(voxels, np.eye(4)), target/kind/f'{case}.nii.gz')
    return target


def make_up_shells(folder):
    "Write the files as this data set would be published, two arrays a case, and as NIfTI."
    (folder/'shells').mkdir()
    for case in CASES: np.savez(folder/'shells'/f'{case}.npz', **dict(zip(('image', 'labels'), shell(case))))
    convert_shells(folder/'shells', folder/'shells_nifti', False)


def check_shells(folder, progress):
    "Every case must be there."
    root = data_folder(folder)/'shells_nifti'
    absent = [(case, 'is missing', False) for case in CASES if not (root/'image'/f'{case}.nii.gz').is_file()]
    return DataReport('shells', root, f'{len(CASES) - len(absent)} of 8 shells', problem_table(absent))


def shells_of(read, made_from):
    "The cohort, however its cases are read."
    return Cohort(name='shells', description='cores in shells', simulated=True, shape=(32, 32, 32),
                  spacing=(1., 1., 1.), structures={1: 'core', 2: 'shell'}, atlas=None, train=CASES[:4],
                  validation=CASES[4:6], validation_pairs=(CASES[4:6],), test_pairs=(CASES[6:],),
                  read=read, made_from=made_from)


def planned_shells():
    "The cohort where its files are missing."
    return shells_of(None, lambda case: ('as published',))


@cohort('shells', check=check_shells, convert=convert_shells, make_up=make_up_shells, planned=planned_shells,
        cpu_steps=(40, 20), networks_from='template')
def shells_cohort(folder):
    "Cores in shells of two labels."
    root = data_folder(folder)/'shells_nifti'
    if not root.is_dir(): raise InputError(f'{root}: no such folder; convert the shells to it.')
    parts = root/'image', root/'labels'
    return shells_of(partial(read_files, images=parts[0], labels=parts[1], structures={1: 'core', 2: 'shell'},
                             shape=(32, 32, 32)), lambda case: tuple(part/f'{case}.nii.gz' for part in parts))
'''


@pytest.fixture
def site(tmp_path):
    "A folder from which a module can be imported that adds a cohort."
    (tmp_path / 'site').mkdir()
    (tmp_path / 'site' / 'shells_from_elsewhere.py').write_text(ONE_FILE)
    return tmp_path / 'site'


def test_by_importing_it(site, tmp_path, monkeypatch):
    "Once its module is imported, the cohort is loaded, checked and made up by its name."
    monkeypatch.syspath_prepend(site)
    before = cohort_names()
    try:
        import_module('shells_from_elsewhere')
        assert set(cohort_names()) == {*before, 'shells'}
        entry = cohort_entry('shells')
        assert (entry.cpu_steps, entry.quick, entry.networks_from) == ((40, 20), False, 'template')
        with pytest.raises(InputError, match='convert the shells'): load_cohort('shells', tmp_path)
        entry.make_up(tmp_path)
        shells = load_cohort('shells', tmp_path)
        assert shells.labels('shell_3').unique().tolist() == [0, 1, 2]
        assert check_data('shells', tmp_path).lines == []
        (tmp_path / 'shells_nifti' / 'image' / 'shell_5.nii.gz').unlink()
        with pytest.raises(InputError, match='shell_5 .is missing.; .*`regpre data check shells`'):
            check_data('shells', tmp_path).refuse()
    finally: del COHORTS['shells'], sys.modules['shells_from_elsewhere']


def told(site: Path, *arguments: str) -> None:
    "The command line, in a process that imports from one more folder."
    sys.path.insert(0, str(site))
    sys.argv = ['regpre', *arguments]
    main()


@pytest.fixture
def package(site):
    "The same folder, as if a package with an entry point were installed there."
    info = site / 'shells-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: shells\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text('[regpre_nb.data]\nshells = shells_from_elsewhere\n')
    return site


@long
def test_by_installing_it(package, tmp_path):
    "Once its package is installed, the command line knows the cohort, from the list to its runs."
    data = tmp_path / 'data'
    data.mkdir()

    def regpre(*arguments):
        return call(told, package, *map(str, arguments), variables=environment(REGPRE_DATA=data))

    absent = regpre('runs', '--profile', 'smoke', '--data', 'shells')
    assert absent.returncode == 0 and 'shells is not here' in absent.stderr, absent.stderr
    rehearsed = regpre('dry-run', '--profile', 'smoke', '--data', 'shells')  # with what is made up for it
    assert rehearsed.returncode == 0 and 'Every run can be built' in rehearsed.stdout, rehearsed.stderr
    call(made_up, package, tmp_path)
    done = regpre('data', 'convert', 'shells', tmp_path / 'shells', data / 'shells_nifti')
    assert (done.returncode, done.stdout) == (0, f"{data / 'shells_nifti'}: written\n"), done.stderr
    listed = regpre('data', 'list').stdout.splitlines()
    assert [line for line in listed if line.startswith('shells')] == [
        f'{"shells":14s} present  Cores in shells of two labels.']
    checked = regpre('data', 'check', 'shells')
    assert checked.returncode == 0 and '8 of 8 shells\nCohort shells: cores in shells' in checked.stdout, checked.stderr
    here = regpre('runs', '--profile', 'smoke', '--data', 'shells')
    assert here.returncode == 0 and len(here.stdout.splitlines()) == len(absent.stdout.splitlines()) > 4, here.stderr
    unknown = regpre('runs', '--data', 'shelves')
    assert unknown.returncode == 2 and 'lung_phantom, shells, template.' in unknown.stderr


def made_up(site: Path, folder: Path) -> None:
    "What a rehearsal calls."
    sys.path.insert(0, str(site))
    cohort_entry('shells').make_up(folder)


def test_package_that_is_broken(package):
    "Its name, and what to do, in one sentence."
    (package / 'shells_from_elsewhere.py').write_text('import a_module_that_is_nowhere')
    done = call(told, package, 'data', 'list', variables=environment())
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert done.stderr.startswith('regpre: shells_from_elsewhere, which another package adds to regpre_nb.data')
