"Pickles and archives that try to run or write something, to take all memory, or to confuse their reader."
import gzip
import io
import os
import pickle
import stat
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

PROTOCOL = b'\x80\x04'


class Call:
    "Pickled as a call."

    def __init__(self, function, *given): self.asked = function, given
    def __reduce__(self): return self.asked


def short(text: str) -> bytes:
    "A string, by the opcode for short ones."
    return b'\x8c' + bytes([len(text.encode())]) + text.encode()


def named(module: str, name: str) -> bytes:
    "What a name stands for, by the opcode that takes it from the stack."
    return PROTOCOL + short(module) + short(name) + b'\x93'


def called(module: str, name: str, *given: str) -> bytes:
    "A call with strings."
    return named(module, name) + b'(' + b''.join(map(short, given)) + b'tR.'


def names(canary: Path) -> dict[str, bytes]:
    "Calls by name: each would, or would bring another to, leave the file behind."
    touch, code = f'touch {canary}', f'open({str(canary)!r}, "w")'
    asked = {
        'os.system': touch, 'posix.system': touch, 'nt.system': touch, 'os.popen': touch, 'pty.spawn': touch,
        'subprocess.getoutput': touch, 'subprocess.Popen': touch, 'builtins.eval': code, 'builtins.exec': code,
        'builtins.compile': code, 'builtins.getattr': 'system', 'builtins.__import__': 'os', '__builtin__.eval': code,
        'importlib.import_module': 'os', 'importlib.reload': 'os', 'runpy.run_module': 'this', 'runpy.run_path': '.',
        'numpy.load': 'x.npy', 'numpy.loads': 'x', 'numpy.fromfile': 'x', 'numpy.memmap': str(canary),
        'numpy.core.multiarray.scalar': 'O', 'numpy.testing._private.utils.runstring': code, 'numpy.f2py.compile': code,
        'types.CodeType': '', 'types.FunctionType': '', 'operator.attrgetter': 'system', 'functools.partial': 'x',
        'operator.methodcaller': 'system', 'builtins.map': '', 'builtins.globals': '', 'ctypes.CDLL': 'libc.so.6',
        'torch._utils._rebuild_tensor_v2': '', 'torch.storage._load_from_bytes': '', 'torch.load': 'x',
        'codecs.encode': 'x', 'builtins.bytes': 'x', 'copyreg._reconstructor': '', 'webbrowser.open': 'file:///',
        'shutil.rmtree': str(canary.parent), 'pathlib.Path.touch': str(canary), 'builtins.open': str(canary),
        'pip.main': 'install', 'timeit.timeit': code, 'cProfile.run': code, 'bdb.Bdb.run': code, 'asyncio.run': '',
        'pickle.loads': '', 'code.interact': ''}
    return {place: called(*place.rpartition('.')[::2], given) for place, given in asked.items()}


def tricks(canary: Path) -> dict[str, bytes]:
    "Other opcodes, and known names used for what they are not for."
    import numpy as np
    touch, system = short(f'touch {canary}'), b'cos\nsystem\n'
    array, text = b'cnumpy._core.multiarray\n_reconstruct\n', f'touch {canary}'.encode()
    return {
        'GLOBAL': system + b"(S'" + text + b"'\ntR.", 'INST': b"(S'" + text + b"'\nios\nsystem\n.",
        'OBJ': b'(' + system + touch + b'o.', 'NEWOBJ': PROTOCOL + system + touch + b'\x85\x81.',
        'NEWOBJ_EX': PROTOCOL + system + touch + b'\x85)\x92.', 'EXT1': b'\x80\x02\x82\x01.',
        'EXT2': b'\x80\x02\x83\x01\x00.', 'EXT4': b'\x80\x02\x84\x01\x00\x00\x00.', 'PERSID': b'Px\n.',
        'BINPERSID': PROTOCOL + touch + b'Q.', 'NEXT_BUFFER': b'\x80\x05\x97.', 'dictionary': pickle.dumps({1: touch}),
        'set': pickle.dumps({1, 2}), 'frozen set': pickle.dumps(frozenset('a')), 'float': pickle.dumps(1.5),
        'dotted module': named('numpy.core', 'multiarray._reconstruct') + b'.',
        'dotted name': called('numpy', 'dtype.__class__'), 'way to os': called('_codecs', 'encode.__self__.__loader__'),
        'dotted path': called('numpy', 'ndarray.__reduce__.__class__'),
        'core of the core': called('numpy._core._core.multiarray', '_reconstruct'),
        'name with a line feed': called('numpy\nos', 'dtype'),
        'name in another alphabet': called('numpy', 'dtyp\u0435'), 'no name': called('', ''),
        'name of an array': PROTOCOL + array + short('dtype') + b'\x93.', 'no array': called('numpy', 'dtype', 'f4'),
        'bytes that are a call': called('_codecs', 'encode', text.decode(), 'latin1'),
        'state of a class': b'cnumpy\nndarray\n(' + touch + b'tb.', 'state of a number': b'K\x01(tb.',
        'objects in an array': pickle.dumps(np.array([Call(os.system, text.decode())], dtype=object)),
        'objects in a record': pickle.dumps(np.zeros(2, [('a', 'O')])), 'times': pickle.dumps(np.zeros(2, 'M8[s]')),
        'subclass': pickle.dumps(np.ma.zeros(3)), 'array in a call': pickle.dumps((np.ones(3), Call(os.system, text))),
        'gzip of a call': gzip.compress(called('os', 'system', text.decode())), 'call after the end': b'N.' + system,
        'pickle in a pickle': pickle.dumps(Call(pickle.loads, pickle.dumps(Call(os.system, text.decode()))))}


def bombs() -> dict[str, bytes]:
    "A few bytes that ask for more than there is, and files that end early."
    import numpy as np
    whole = pickle.dumps((np.ones((3, 4, 5), np.float32), np.eye(2) > 0))
    laughs = b'\x80\x04(t\x94' + b''.join(b'h%ch%c\x86\x94' % (count, count) for count in range(60))
    shape = b'K\x03K\x04K\x05\x87'
    bombs = {
        'BINBYTES': b'\x80\x03B\xff\xff\xff\x7fha.',
        'BINBYTES8': PROTOCOL + b'\x8e' + struct.pack('<Q', 10**11) + b'ha.',
        'LONG4': b'\x80\x02\x8b\xff\xff\xff\x7f1.',
        'BINUNICODE8': PROTOCOL + b'\x8d' + struct.pack('<Q', 2**63) + b'ha.',
        'BYTEARRAY8': b'\x80\x05\x96' + struct.pack('<Q', 10**12) + b'ha.',
        'FRAME': PROTOCOL + b'\x95' + struct.pack('<Q', 2**62) + b'N.',
        'LONG_BINPUT': b'Nr\xff\xff\xff\xff.', 'PUT': b'Np4000000000\n.', 'LONG': b'L' + b'9'*10_000 + b'L\n.',
        'deep tuples': PROTOCOL + b'N' + b'\x85'*100_000 + b'.', 'many lists': PROTOCOL + b'(' + b']'*100_000 + b't.',
        'deep lists': b']'*100_000 + b'a'*99_999 + b'.', 'doubled': b'N' + b'2'*100_000 + b'.',
        'laughs': laughs + b'.', 'laughing type': b'cnumpy\ndtype\n' + laughs[2:] + b'\x85R.',
        'array of 100 GB': whole.replace(shape, b'J\xff\xff\xff\x7fK\x04K\x05\x87'),
        'other protocol': b'\x80\xff' + whole[2:], 'text': b'<html>', 'empty': b'', 'stack that is empty': b'R.'}
    return bombs | {f'cut at {at}': whole[:at] for at in (1, 2, 10, 40, len(whole)//2, len(whole) - 1)}


ELSEWHERE = ['../out', 'a/../../out', '/out', '//server/out', '..', 'a/..', './../out', 'C:/out', 'C:out', '\\out',
             '..\\out', 'a\\..\\out', 'a//b', 'out\n', 'a\x1b[2J', 'a:stream', 'NUL', 'a/con.txt', 'COM1', 'dot.',
             'space ', '', '/']
TWICE = [('a', 'a'), ('a', 'A'), ('\u00e9', 'e\u0301'), ('a', 'a/b'), ('a/b', 'a'), ('a/b/', 'a/b')]
KINDS = {'symbolic link': tarfile.SYMTYPE, 'hard link': tarfile.LNKTYPE, 'character device': tarfile.CHRTYPE,
         'block device': tarfile.BLKTYPE, 'pipe': tarfile.FIFOTYPE, 'contiguous': tarfile.CONTTYPE,
         'sparse': tarfile.GNUTYPE_SPARSE, 'unknown': b'Z'}


def tar(path: Path, *parts: tuple[str, bytes, dict]) -> None:
    "Write a tar file: names, contents, what else is said of them."
    with tarfile.open(path, 'w', format=tarfile.GNU_FORMAT) as archive:
        for name, content, said in parts:
            info = tarfile.TarInfo(name)
            for key, value in ({'size': len(content)} | said).items(): setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))


def zipped(path: Path, *parts: tuple[str, bytes, int]) -> None:
    "Write a zip file: names, contents and modes."
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # names that stand there twice
        for name, content, mode in parts:
            info = zipfile.ZipInfo('x')
            info.filename, info.external_attr, info.compress_type = name, mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


def archives(folder: Path) -> dict[str, Path]:
    "Archives that write elsewhere, hold more than files, or are larger than they say."
    found = {}

    def keep(label, write, *parts):
        found[label] = folder / f'{len(found)}.{write.__name__}'
        write(found[label], *parts)
    for name in ELSEWHERE:
        keep(f'tar {name!r}', tar, ('first', b'1', {}), (name, b'2', {}))
        keep(f'zip {name!r}', zipped, ('first', b'1', 0), (name, b'2', 0))
    for names in TWICE:
        keep(f'tar {names}', tar, *((name, b'', {'type': b'5' if name[-1] == '/' else b'0'}) for name in names))
        keep(f'zip {names}', zipped, *((name, b'', 0) for name in names))
    for label, kind in KINDS.items():
        keep(label, tar, ('first', b'', {}), ('it', b'', {'type': kind, 'linkname': '/'}))
    for mode in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):
        keep(f'zip, mode {mode:o}', zipped, ('it', b'/', mode | 0o777))
    keep('bomb, zip', zipped, ('zeros', bytes(10**7), 0))
    keep('bomb, tar.gz', tar, ('zeros', bytes(10**7), {}))
    keep('header', tar, ('a'*3_000_000, b'', {}))
    for label in ('bomb, tar.gz', 'header'): found[label].write_bytes(gzip.compress(found[label].read_bytes()))
    keep('size that is not there', tar, ('a', b'1', {}))
    cut = found['size that is not there'].read_bytes()
    found['size that is not there'].write_bytes(cut.replace(b'00000000001', b'77777777777', 1)[:1024])
    for label, content in {'text': b'<html>', 'empty': b'', 'half a gzip': gzip.compress(cut)[:40]}.items():
        found[label] = folder / f'{label}.tar'
        found[label].write_bytes(content)
    return found
