"Packaging reads settings.ini: edit there, not here."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here / 'settings.ini', encoding='utf-8')
settings = parser['DEFAULT']
extras = ('dev', 'fast', 'bench', 'baselines', 'hub', 'viewer', 'cluster')

setup(
    name=settings['lib_name'],
    version=settings['version'],
    description=settings['description'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=settings['author'],
    author_email=settings['author_email'],
    license='Apache-2.0',
    packages=find_packages(include=[settings['lib_path'], f"{settings['lib_path']}.*"]),
    package_data={settings['lib_name']: ['weights/*/*']},
    python_requires=f">={settings['min_python']}",
    install_requires=settings['requirements'].split(),
    extras_require={extra: settings[f'{extra}_requirements'].split() for extra in extras},
    entry_points={
        'console_scripts': [f"regpre={settings['lib_path']}.use.cli:main"],
        'nbdev': [f"{settings['lib_path']}={settings['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
