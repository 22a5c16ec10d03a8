"""How tools end."""

import re
from pathlib import Path

import pytest

from mambaout_mm.errors import UserError, exit_with_a_sentence


def ended_by(error, debug=False):
    with pytest.raises(SystemExit) as caught, exit_with_a_sentence(debug):
        raise error
    return caught.value.code


def test_a_users_mistake_is_one_sentence():
    assert ended_by(UserError('x is 3')) == 'error: x is 3'
    assert ended_by(UserError('x is 3'), debug=True) == 'error: x is 3'


def test_ctrl_c_ends_as_shells_expect(capsys):
    assert ended_by(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == 'interrupted\n'


def test_an_unexpected_error_says_where_its_traceback_is():
    message = ended_by(ZeroDivisionError('division by zero\nand more'))
    assert message.count('\n') == 0
    assert 'unexpected' in message and 'ZeroDivisionError: division by zero.' in message
    assert '--debug' in message
    file = Path(re.search(r'traceback is in (\S+);', message)[1])
    trace = file.read_text()
    file.unlink()
    assert 'command: ' in trace and 'Traceback' in trace and 'raise error' in trace


def test_debug_shows_the_traceback_itself():
    with pytest.raises(ZeroDivisionError), exit_with_a_sentence(debug=True):
        raise ZeroDivisionError
