"The package where Linux's own modules are missing; Windows and macOS themselves are not tried here."
import ast
import importlib
import os
import pkgutil
import signal
import sys
from contextlib import suppress

import pytest
from conftest import ROOT, name
from forked import call

import regpre_nb

NOT_EVERYWHERE = 'fcntl', 'grp', 'posix', 'pty', 'pwd', 'resource', 'syslog', 'termios'
LACKING = {os: ('O_DIRECTORY', 'fork', 'getpgid', 'getuid', 'killpg', 'mkfifo', 'sched_getaffinity', 'setsid'),
           signal: ('SIGALRM', 'SIGHUP', 'SIGKILL', 'alarm')}


def import_all():
    "In a process that has what others bring: import every module, without what Windows lacks."
    from regpre_nb.use.cli import main  # noqa: F401 - with all that it needs
    for module in NOT_EVERYWHERE: sys.modules[module] = None
    for module, lacking in LACKING.items():
        for each in lacking:
            with suppress(AttributeError): delattr(module, each)
    for each in [each for each in sys.modules if each.partition('.')[0] == 'regpre_nb']: del sys.modules[each]
    found = [each.name for each in pkgutil.walk_packages(regpre_nb.__path__, 'regpre_nb.')]
    for each in found: importlib.import_module(each)
    print(len(found))


def test_every_module_can_be_imported():
    done = call(import_all)
    assert done.returncode == 0 and int(done.stdout.split()[-1]) > 40, done.stderr


CODE = sorted([*(ROOT / 'regpre_nb').rglob('*.py'), *(ROOT / 'tools').glob('*.py')])


def opens_text(call: ast.Call) -> bool:
    "Whether a call reads or writes text in whatever encoding the system prefers."
    called, given = ast.unparse(call.func), {item.arg for item in call.keywords}
    if 'encoding' in given or None in given: return False
    if called.endswith('.read_text'): return not call.args
    if called.endswith('.write_text'): return len(call.args) < 2
    modes = [item.value for item in call.keywords if item.arg == 'mode'] + call.args[1:2]
    return called == 'open' and not any('b' in getattr(mode, 'value', 'b') for mode in modes)


@pytest.mark.parametrize('path', CODE, ids=name)
def test_text_has_an_encoding(path):
    "On Windows text is written in another encoding unless one is named."
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if isinstance(node, ast.Call)]
    assert [node.lineno for node in calls if opens_text(node)] == []
