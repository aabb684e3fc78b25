"""Links, paths and messages in the documentation are those of the code."""

import ast
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
PARSER = MarkdownIt().enable('table')
# Names in text that are of other places than this repository.
PLACEHOLDERS = re.compile(r'[*<>{}$]|\.\.\.')


def pages():
    """Every Markdown file of the repository."""
    listed = subprocess.run(
        ['git', 'ls-files', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
        found = [ROOT / name for name in names if name.endswith('.md')]
        return [path for path in found if path.is_file()]
    # Not a clone, but an unpacked archive.
    return [
        path
        for path in ROOT.rglob('*.md')
        if not any(part.startswith('.') for part in path.parts)
    ]


def inline(path):
    """The inline tokens of a page, links and code among them."""
    for token in PARSER.parse(path.read_text()):
        yield from token.children or ()


def anchors(path):
    """Anchors of the headings of a page, as code hosting sites make them."""
    tokens = PARSER.parse(path.read_text())
    found = set()
    for token, content in zip(tokens, tokens[1:]):
        if token.type == 'heading_open':
            text = ''.join(
                child.content
                for child in content.children
                if child.type in ('text', 'code_inline')
            )
            text = re.sub(r'[^\w\- ]', '', text.lower())
            found.add(text.replace(' ', '-'))
    return found


def name(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize('page', pages(), ids=name)
def test_links_lead_somewhere(page):
    broken = []
    for token in inline(page):
        target = token.attrGet('href') or token.attrGet('src')
        if not target or re.match(r'[a-z]+:', str(target)):
            continue
        file, _, anchor = unquote(str(target)).partition('#')
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize('page', pages(), ids=name)
def test_files_that_are_named_exist(page):
    missing = []
    for token in PARSER.parse(page.read_text()):
        texts = [token.content] if token.type == 'fence' else []
        texts += [
            child.content
            for child in token.children or ()
            if child.type == 'code_inline'
        ]
        for text in texts:
            words = re.findall(
                r'(?<![\w/$.-])(?:tools|configs|hmsa_mmseg|tests|docs)/'
                r'[^\s`\'",:()]+',
                text,
            )
            for word in words:
                word = word.rstrip('.,;\\')
                if PLACEHOLDERS.search(word) or not Path(word).suffix:
                    continue
                if not (ROOT / word).exists():
                    missing.append(word)
    # mmseg's own tools are named in a table beside ours.
    if name(page) == 'docs/tools.md':
        return
    assert not missing


def strings_of_the_code():
    """All texts in the code, adjacent literals joined, as one."""
    texts = []
    for folder in ('hmsa_mmseg', 'tools'):
        for path in (ROOT / folder).rglob('*.py'):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(
                    node.value, str
                ):
                    texts.append(node.value)
    return '\n'.join(texts)


def messages():
    """The messages of docs/troubleshooting.md that this package prints."""
    text = (ROOT / 'docs/troubleshooting.md').read_text()
    return re.findall(r'^\| `([^`]+)` \| this package \|', text, re.M)


def test_messages_are_printed_by_the_code():
    texts = strings_of_the_code()
    found = messages()
    assert len(found) > 12
    parts = [part for text in found for part in re.split(r'\[?\.\.\.', text)]
    parts = [part.strip() for part in parts if len(part.strip()) > 3]
    assert [part for part in parts if part not in texts] == []


def marks_of_faults():
    """What and then of each `pytest.mark.fault(what, then)` in tests/."""
    found = []
    for path in (ROOT / 'tests').rglob('test_*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            for mark in getattr(node, 'decorator_list', ()):
                if (
                    isinstance(mark, ast.Call)
                    and ast.unparse(mark.func) == 'pytest.mark.fault'
                ):
                    what, then = map(ast.literal_eval, mark.args)
                    found.append((what, then))
    return found


def test_faults_are_those_of_the_marks():
    """`make faults` has been run since a mark was last changed."""
    rows = re.findall(
        r'^\| (.+) \| (.+) \| `.+` \| (?:passed|skipped) \|$',
        (ROOT / 'docs/faults.md').read_text(),
        re.M,
    )
    marks = marks_of_faults()
    assert len(marks) > 12
    assert len({what for what, _ in marks}) == len(marks)
    assert sorted(rows) == sorted(marks)
