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
myst_heading_anchors = 3
nb_execution_mode = 'off'
nb_output_stderr = 'remove'
nb_merge_streams = True
nb_render_markdown_format = 'myst'  # else tables in outputs stay plain text

html_theme = 'sphinx_book_theme'
html_static_path = ['static']
html_css_files = ['site.css']
html_js_files = ['site.js']
html_theme_options = {'show_navbar_depth': 1, 'navbar_persistent': [], 'show_toc_level': 2,
                      'use_download_button': False, 'use_fullscreen_button': False}
html_copy_source = False
html_show_sourcelink = False
add_module_names = False
python_maximum_signature_line_length = 88  # longer ones have a line for each argument
python_use_unqualified_type_names = True
toc_object_entries = False  # else the lists of contents take longer than all else
html_context = {'default_mode': 'auto'}
