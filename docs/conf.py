"Sphinx configuration; tools/docs.py writes the pages and calls Sphinx."
from configparser import ConfigParser
from pathlib import Path

parser = ConfigParser(delimiters=['='])
parser.read(Path(__file__).parent.parent / 'settings.ini', encoding='utf-8')
settings = parser['DEFAULT']

project = html_title = settings['title']
author = settings['author']
copyright = settings['copyright']
version = release = settings['version']

extensions = ['myst_nb', 'sphinx.ext.mathjax', 'sphinx-mathjax-offline', 'sphinx_design', 'sphinx_copybutton']
myst_enable_extensions = ['colon_fence', 'dollarmath', 'amsmath', 'attrs_inline', 'deflist']
suppress_warnings = ['myst.header']  # signatures are third-level headings wherever they stand
nb_execution_mode = 'off'
nb_output_stderr = 'remove'
nb_merge_streams = True
nb_render_markdown_format = 'myst'  # else tables in outputs stay plain text

html_theme = 'sphinx_book_theme'
html_static_path = ['static']
html_css_files = ['tables.css']
html_theme_options = {'show_navbar_depth': 1, 'navbar_persistent': [], 'show_toc_level': 2,
                      'use_download_button': False, 'use_fullscreen_button': False}
html_copy_source = False
html_show_sourcelink = False
