"""Tables in the README and the guides, and the model index, are what the facts write."""

import importlib.util

from support import ROOT


def test_tables_and_model_index_are_as_the_facts_write_them():
    spec = importlib.util.spec_from_file_location('tables', ROOT / 'docs' / 'tables.py')
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    stale = [path.name for path, text in tables.written().items() if path.read_text() != text]
    assert stale == [], 'run python docs/tables.py'
