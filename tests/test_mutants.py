"What tools/mutants.py plants, and that it tells apart what is noticed and what is not."
import ast
import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / 'tools'))
import mutants  # noqa: E402

SOURCE = '''
def mean(values: list[float] = [0]) -> float:
    if len(values) < 1: raise ValueError('no values: ' + str(1))
    values.sort()
    return sum(values, start=-2) / len(values)
'''
PLANTED = {
    ('len(values) < 1', 'len(values) <= 1'), ('len(values) < 1', 'len(values) > 1'), ('1', '2'), ('0', '1'),
    ('len(values) < 1', 'not len(values) < 1'), ('values.sort()', 'pass'), ('sum', 'mean'), ('2', '3'),
    ('sum(values, start=-2) / len(values)', 'sum(values, start=-2) * len(values)'),
    ('sum(values, start=-2)', 'sum(values)'), ('start=-2', 'start=2'),
}


def test_changes():
    "Operators, comparisons, constants, conditions, signs, names, arguments and calls; no annotation, no message."
    tree = ast.parse(SOURCE)
    before = ast.unparse(tree)
    found = [(what['before'], what['after']) for what, _ in mutants.mutants(tree)]
    assert set(found) == PLANTED and len(found) == len(PLANTED)
    assert ast.unparse(tree) == before


def test_each_is_compiled():
    "The code of a change holds that change alone."
    values = {}
    for what, code in mutants.mutants(ast.parse(SOURCE)):
        names = {}
        exec(code(), names)
        try: values[what['before'], what['after']] = names['mean']([3., 5.])
        except (ValueError, RecursionError, TypeError) as error: values[what['before'], what['after']] = type(error)
    assert values['start=-2', 'start=2'] == 5 and values['sum(values, start=-2)', 'sum(values)'] == 4
    assert values['values.sort()', 'pass'] == 3 and values['len(values) < 1', 'not len(values) < 1'] is ValueError


def test_processes():
    "A change lives in a process of its own; one that does not end is stopped, and counts as noticed."
    def spoil():
        sys.modules['spoilt'] = None
        return ''

    def forever():
        while True: pass

    assert mutants.forked(spoil) == '' and 'spoilt' not in sys.modules
    assert mutants.forked(forever, limit=1) == 'time'
    assert mutants.forked(lambda: sys.exit(3)) == 'death'
