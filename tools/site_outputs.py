"Outputs of notebooks as the site may show them: whoever ran a notebook can have written anything there."
import re

import bleach
from bleach.css_sanitizer import CSSSanitizer

KINDS = 'text/plain', 'text/html', 'text/markdown', 'image/png', 'image/jpeg'
TAGS = {*'div span p pre code b i em strong br hr ul ol li table caption thead tbody tfoot tr th td'.split()}
CELL = ['rowspan', 'colspan', 'valign', 'halign']
ATTRIBUTES = {'*': ['class', 'id', 'style'], 'table': ['border'], 'th': CELL, 'td': CELL}
STYLE = re.compile(r'<style(?: type="text/css"| scoped)?>([\w\s.#{}:;,%-]*)</style>')  # nothing that fetches a file
HIDDEN = re.compile(r'<(script|style)\b.*?(?:</\1\s*>|\Z)', re.S | re.I)


def safe_html(text: str) -> str:
    "Tables and text as they are; no script, no handler of an event, no form, nothing that is fetched."
    styles: list[str] = []

    def keep(found: re.Match) -> str:
        styles.append(found[0])
        return f'\ue000{len(styles) - 1}\ue001'
    text = HIDDEN.sub('', STYLE.sub(keep, re.sub('[\ue000\ue001]', '', text)))
    text = bleach.clean(text, TAGS, ATTRIBUTES, css_sanitizer=CSSSanitizer(), strip=True)
    return re.sub('\ue000(\\d+)\ue001', lambda found: styles[int(found[1])], text)


def safe_markdown(text: str) -> str:
    "Markdown without HTML but for line breaks, and without directives and roles, which can read files."
    text = re.sub(r'<(?=[a-z/!?])(?!br */?>)', '&lt;', text, flags=re.I)
    text = re.sub(r'(`{3,}|~{3,}|:{3,})[ \t]*\{', r'\1 ', text)
    return re.sub(r'\{[^{}\n]*\}(?=`)', '', text)


SAFE = {'text/html': safe_html, 'text/markdown': safe_markdown}


def safe_output(output: dict) -> dict:
    "An output of a cell with what the site shows of it."
    if 'data' not in output: return output
    shown = {kind: output['data'][kind] for kind in KINDS if kind in output['data']}
    return output | {'metadata': {}, 'data': {
        kind: SAFE[kind](''.join(content)) if kind in SAFE else content for kind, content in shown.items()}}
