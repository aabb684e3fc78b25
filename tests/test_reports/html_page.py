"""A page as a browser reads it."""

import base64
import io
from html.parser import HTMLParser

from PIL import Image

VOID = {'meta', 'img', 'input', 'br', 'hr', 'link'}


class Page(HTMLParser):
    """A page as a browser reads it: tags in order, and the text in each."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)
        self.close()
        assert self.open == [], 'not closed'

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        parent = self.open[-1] if self.open else None
        entry = dict(tag=tag, attrs=attrs, text='', parent=parent)
        self.tags.append(entry)
        if tag not in VOID:
            self.open.append(entry)

    def handle_endtag(self, tag):
        assert self.open.pop()['tag'] == tag

    def handle_data(self, data):
        for entry in self.open:
            entry['text'] += data

    def values(self, name):
        """All values of an attribute."""
        return [e['attrs'][name] for e in self.tags if name in e['attrs']]

    def find(self, tag, within=None, **attrs):
        return [
            entry
            for entry in self.tags
            if entry['tag'] == tag
            and all(entry['attrs'].get(k) == v for k, v in attrs.items())
            and (within is None or any(p is within for p in up(entry)))
        ]

    def table(self, id):
        """Rows of a table's body: first cell -> texts of the others."""
        (table,) = self.find('table', id=id)
        (body,) = self.find('tbody', table)
        rows = {}
        for row in self.find('tr', body):
            cells = [
                entry['text'].strip().replace('\N{MINUS SIGN}', '-')
                for entry in self.tags
                if entry['parent'] is row
            ]
            assert cells[0] not in rows
            rows[cells[0]] = cells[1:]
        return rows


def up(entry):
    while entry is not None:
        yield entry
        entry = entry['parent']


def picture(uri):
    kind, _, text = uri.partition(';base64,')
    assert kind == 'data:image/webp'
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image
