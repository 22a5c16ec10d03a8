"""The walk through a config."""

from mambaout_mm.config_tree import dicts_in


def test_every_dict_with_its_dotted_path_outer_ones_first():
    tree = dict(a=dict(b=1), c=[dict(d=(dict(e=2), 3))], f=None)
    found = dict(dicts_in(tree))
    assert list(found) == ['', 'a', 'c.0', 'c.0.d.0']
    assert found['c.0.d.0'] is tree['c'][0]['d'][0]
    assert list(dict(dicts_in(tree['c'], 'c'))) == ['c.0', 'c.0.d.0']
    assert list(dicts_in(None)) == []


def test_the_dicts_found_may_be_changed_on_the_way():
    tree = dict(a=dict(type='SyncBN'), b=[dict(type='SyncBN')])
    for _, node in dicts_in(tree):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
    assert tree == dict(a=dict(type='BN'), b=[dict(type='BN')])
