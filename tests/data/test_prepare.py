"""The data tool against a small HTTP server; no test downloads the real archives."""

import hashlib
import io
import subprocess
import sys
import threading
import urllib.error
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest

from mambaout_mm.data import prepare as module
from mambaout_mm.data.catalogue import DATASETS, Archive, Dataset
from mambaout_mm.data.prepare import check, missing, prepare
from mambaout_mm.errors import UserError

TOOL = Path(__file__).parents[2] / 'tools' / 'prepare_data.py'
# Stored, not compressed, so that the archive is larger than one read and can break in the middle.
IMAGES = {f'images/{i:03}.jpg': bytes([i]) * 1000 for i in range(200)}
LABELS = {'labels/all.json': b'{"labels": []}', 'labels/unused.json': b'not needed'}


def pack(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return buffer.getvalue()


@dataclass
class Server:
    """What the server offers, how it misbehaves, and what it was asked for."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: str = 'served'  # or 'ignored' or 'refused'
    down: bool = False
    drop_after: int | None = None
    fail_after_drop: bool = False
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch):
    # A proxy of the machine must not be asked for 127.0.0.1.
    monkeypatch.setenv('no_proxy', '127.0.0.1')

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get('Range')
            state.requests.append((self.path, asked))
            if state.down:
                self.send_error(503)
                return
            body = state.files[self.path]
            if asked and state.ranges == 'refused':
                self.send_error(416)
                return
            resume = asked and state.ranges == 'served'
            start = int(asked.removeprefix('bytes=').rstrip('-')) if resume else 0
            self.send_response(206 if start else 200)
            self.send_header('Content-Length', str(len(body) - start))
            self.end_headers()
            if state.drop_after is not None:
                self.wfile.write(body[start : start + state.drop_after])
                state.down = state.fail_after_drop
            else:
                self.wfile.write(body[start:])

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    state = Server(url=f'http://127.0.0.1:{httpd.server_port}')
    thread = threading.Thread(target=httpd.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def dataset(server):
    return publish(server, images=IMAGES, labels=LABELS)


def publish(server, images, labels):
    """Offer two archives like those of COCO and return the dataset they make up."""
    packed = {'/labels.zip': pack(labels), '/images.zip': pack(images)}
    server.files.update(packed)
    contents = {'/labels.zip': {'labels/all.json': 1}, '/images.zip': {'images': len(IMAGES)}}
    return Dataset(
        name='coco',
        folder='coco',
        archives=tuple(
            Archive(
                url=server.url + path,
                md5=hashlib.md5(body).hexdigest(),
                size=len(body),
                unpacked=1000,
                contents=contents[path],
            )
            for path, body in packed.items()
        ),
        config='configs/x.py',
    )


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def assert_complete(root):
    wanted = IMAGES | {'labels/all.json': LABELS['labels/all.json']}
    assert files_below(root / 'coco') == wanted
    assert not list(root.rglob('*.part')), 'a temporary file was left'


def asked_for(server, path):
    return [asked for name, asked in server.requests if name == path]


def test_downloads_and_unpacks_what_is_needed(dataset, tmp_path, capsys):
    prepare(dataset, tmp_path)
    assert_complete(tmp_path)
    assert missing(dataset, tmp_path) == []
    assert 'python tools/train.py configs/x.py' in capsys.readouterr().out


def test_second_run_asks_the_server_for_nothing(dataset, server, tmp_path):
    prepare(dataset, tmp_path)
    server.requests.clear()
    prepare(dataset, tmp_path)
    assert server.requests == []


def test_downloads_only_the_archive_whose_contents_are_missing(dataset, server, tmp_path):
    (tmp_path / 'coco/labels').mkdir(parents=True)
    (tmp_path / 'coco/labels/all.json').write_bytes(LABELS['labels/all.json'])
    prepare(dataset, tmp_path)
    assert_complete(tmp_path)
    assert {path for path, _ in server.requests} == {'/images.zip'}


def test_interrupted_download_continues_in_the_next_run(dataset, server, tmp_path):
    images = dataset.archives[1]
    half = images.size // 2
    server.drop_after, server.fail_after_drop = half, True
    (tmp_path / 'downloads').mkdir()
    (tmp_path / 'downloads/labels.zip').write_bytes(server.files['/labels.zip'])
    with pytest.raises(UserError, match='503'):
        prepare(dataset, tmp_path)
    assert not (tmp_path / 'downloads/images.zip').exists(), 'half a file has the final name'
    assert (tmp_path / 'downloads/images.zip.part').stat().st_size == half

    server.drop_after, server.down = None, False
    server.requests.clear()
    prepare(dataset, tmp_path)
    assert asked_for(server, '/images.zip') == [f'bytes={half}-']
    assert_complete(tmp_path)


def test_dropped_connection_is_taken_up_again_in_the_same_run(dataset, server, tmp_path):
    step = 100_000
    server.drop_after = step
    prepare(dataset, tmp_path)
    size = dataset.archives[1].size
    expected = [None, *(f'bytes={start}-' for start in range(step, size, step))]
    assert asked_for(server, '/images.zip') == expected
    assert_complete(tmp_path)


def test_server_without_ranges_starts_over(dataset, server, tmp_path):
    server.ranges = 'ignored'
    part = tmp_path / 'downloads/images.zip.part'
    part.parent.mkdir()
    part.write_bytes(b'other bytes than the archive begins with')
    prepare(dataset, tmp_path)
    assert asked_for(server, '/images.zip') == ['bytes=40-']
    assert_complete(tmp_path)


def test_server_without_ranges_that_always_drops_ends_with_an_error(dataset, server, tmp_path):
    server.ranges = 'ignored'
    server.drop_after = 100
    with pytest.raises(UserError, match='closed after 100 of'):
        prepare(dataset, tmp_path)


def test_refused_range_starts_over(dataset, server, tmp_path):
    server.ranges = 'refused'
    part = tmp_path / 'downloads/images.zip.part'
    part.parent.mkdir()
    part.write_bytes(b'stale')
    prepare(dataset, tmp_path)
    assert asked_for(server, '/images.zip') == ['bytes=5-', None]
    assert_complete(tmp_path)


def test_wrong_checksum_removes_the_file_and_says_so(dataset, server, tmp_path):
    body = server.files['/images.zip']
    server.files['/images.zip'] = body[:-1] + b'!'
    with pytest.raises(UserError, match=r'has MD5 .* instead of .* and was removed'):
        prepare(dataset, tmp_path)
    assert not list((tmp_path / 'downloads').glob('images*')), 'the bad file is still there'

    server.files['/images.zip'] = body
    prepare(dataset, tmp_path)
    assert_complete(tmp_path)


def test_answer_of_another_size_leaves_the_part_file_alone(dataset, server, tmp_path):
    server.ranges = 'ignored'
    server.files['/images.zip'] = b'<html>please log in</html>'
    part = tmp_path / 'downloads/images.zip.part'
    part.parent.mkdir()
    part.write_bytes(b'precious')
    with pytest.raises(UserError, match='announced with 26 bytes'):
        prepare(dataset, tmp_path)
    assert part.read_bytes() == b'precious'


def test_archive_provided_by_hand_needs_no_server(dataset, server, tmp_path):
    (tmp_path / 'downloads').mkdir()
    for path, body in server.files.items():
        (tmp_path / f'downloads{path}').write_bytes(body)
    server.down = True
    prepare(dataset, tmp_path)
    assert server.requests == []
    assert_complete(tmp_path)


def test_truncated_archive_provided_by_hand_is_completed(dataset, server, tmp_path):
    (tmp_path / 'downloads').mkdir()
    (tmp_path / 'downloads/images.zip').write_bytes(server.files['/images.zip'][:1000])
    prepare(dataset, tmp_path)
    assert asked_for(server, '/images.zip') == ['bytes=1000-']
    assert_complete(tmp_path)


def test_archive_of_the_wrong_bytes_provided_by_hand_is_removed(dataset, server, tmp_path):
    target = tmp_path / 'downloads/images.zip'
    target.parent.mkdir()
    target.write_bytes(bytes(dataset.archives[1].size))
    with pytest.raises(UserError, match='was removed'):
        prepare(dataset, tmp_path)
    assert not target.exists()


def test_interrupted_unpacking_continues(dataset, tmp_path, monkeypatch):
    copy = module.shutil.copyfileobj
    written = []

    def stop_at_the_tenth(source, target, length):
        written.append(target.name)
        if len(written) == 10:
            target.write(b'half')
            raise KeyboardInterrupt
        copy(source, target, length)

    monkeypatch.setattr(module.shutil, 'copyfileobj', stop_at_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        prepare(dataset, tmp_path)
    # The labels are the first of the ten, the one that broke is the last.
    assert files_below(tmp_path / 'coco/images').keys() == {
        *(f'{i:03}.jpg' for i in range(8)),
        '008.jpg.part',
    }
    assert 'incomplete' in missing(dataset, tmp_path)[0]

    # A file that something else cut short is written again, too.
    (tmp_path / 'coco/images/003.jpg').write_bytes(b'cut')
    written.clear()
    written.extend(['already past the tenth'] * 10)
    prepare(dataset, tmp_path)
    assert_complete(tmp_path)
    assert len(written) - 10 == len(IMAGES) - 7, 'files that were there were unpacked again'


@pytest.mark.parametrize('name', ['images/../../evil.jpg', '/evil.jpg', 'C:\\evil.jpg'])
def test_archive_that_reaches_outside_is_refused(server, tmp_path, name):
    dataset = publish(server, images=IMAGES | {name: b'evil'}, labels=LABELS)
    with pytest.raises(UserError, match='written outside'):
        prepare(dataset, tmp_path / 'root')
    assert not (tmp_path / 'root/coco/images').exists(), 'unpacking began before the names'
    assert not list(tmp_path.rglob('*evil*'))


def test_archive_that_lacks_files_is_reported(server, tmp_path):
    few = dict(list(IMAGES.items())[:5])
    with pytest.raises(UserError, match=r'incomplete .*images \(5 of 200 images\)'):
        prepare(publish(server, images=few, labels=LABELS), tmp_path)


def test_file_that_is_no_zip_is_reported(server, tmp_path):
    body = b'not a zip'
    server.files['/images.zip'] = body
    archive = Archive(
        url=f'{server.url}/images.zip',
        md5=hashlib.md5(body).hexdigest(),
        size=len(body),
        unpacked=0,
        contents={'images': 1},
    )
    with pytest.raises(UserError, match='cannot unpack'):
        prepare(Dataset('x', 'x', (archive,), 'configs/x.py'), tmp_path)


def test_unreachable_server_names_the_url_and_the_place(dataset, server, tmp_path, monkeypatch):
    def no_network(request, timeout):
        raise urllib.error.URLError('Network is unreachable')

    monkeypatch.setattr(module.urllib.request, 'urlopen', no_network)
    with pytest.raises(UserError) as caught:
        prepare(dataset, tmp_path)
    assert f'{server.url}/labels.zip' in str(caught.value)
    assert str(tmp_path / 'downloads/labels.zip') in str(caught.value)
    assert 'Network is unreachable' in str(caught.value)


def test_small_disk_is_refused_before_downloading(dataset, server, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=10)
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(UserError, match=r'needs .* kB below .* and only 10 bytes are free'):
        prepare(dataset, tmp_path)
    assert server.requests == []


def test_space_counts_only_what_is_still_to_come(dataset, tmp_path, monkeypatch, capsys):
    images = dataset.archives[1]
    (tmp_path / 'downloads').mkdir()
    (tmp_path / 'downloads/images.zip.part').write_bytes(bytes(images.size - 100))
    for name in list(IMAGES)[:100]:
        (tmp_path / 'coco' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'coco' / name).write_bytes(b'there')
    module._check_space(dataset, [images], tmp_path)
    # 100 bytes of the archive and half of the images, which take 1000 bytes in all.
    assert 'needs 600 bytes' in capsys.readouterr().out


def test_root_that_cannot_be_written_is_a_user_error(dataset, tmp_path):
    (tmp_path / 'root').write_text('a file where a folder should be')
    with pytest.raises(UserError, match='stopped by'):
        prepare(dataset, tmp_path / 'root')


def test_check_of_a_missing_dataset(dataset, server, tmp_path, capsys):
    root = tmp_path / 'nothing here'
    assert check(dataset, root) is False
    assert capsys.readouterr().out.splitlines() == [
        f'missing     {root}/coco/labels/all.json',
        f'missing     {root}/coco/images (0 of 200 images)',
        f"next: python tools/prepare_data.py coco --root '{root}'",
    ]
    assert not root.exists(), '--check must not write'
    assert server.requests == []


def test_check_of_an_incomplete_dataset(dataset, tmp_path, capsys):
    prepare(dataset, tmp_path)
    (tmp_path / 'coco/images/007.jpg').unlink()
    (tmp_path / 'coco/images/Thumbs.db').touch()
    capsys.readouterr()
    assert check(dataset, tmp_path) is False
    assert capsys.readouterr().out.splitlines()[:2] == [
        f'present     {tmp_path}/coco/labels/all.json',
        f'incomplete  {tmp_path}/coco/images (199 of 200 images)',
    ]


def test_check_of_a_complete_dataset(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(dataset, Path('data'))
    capsys.readouterr()
    assert check(dataset, Path('data')) is True
    assert capsys.readouterr().out.splitlines() == [
        'present     data/coco/labels/all.json',
        'present     data/coco/images (200 of 200 images)',
        'next: python tools/train.py configs/x.py',
    ]


def test_hint_for_another_root_links_it_to_where_the_configs_look(dataset, tmp_path, capsys):
    prepare(dataset, tmp_path)
    last = capsys.readouterr().out.splitlines()[-1]
    assert f'ln -s {tmp_path}/coco data/coco && python tools/train.py' in last


def test_command_line_check_lists_what_is_missing(tmp_path):
    result = subprocess.run(
        [sys.executable, str(TOOL), 'coco', '--check', '--root', str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    for path in ('train2017', 'val2017', 'annotations/instances_train2017.json'):
        assert f'missing     {tmp_path}/coco/{path}' in result.stdout
    assert f'python tools/prepare_data.py coco --root {tmp_path}' in result.stdout


def run_tool(arguments):
    with pytest.raises(SystemExit) as caught:
        run_path(str(TOOL))['main'](arguments)
    return caught.value.code


def test_command_line_check_of_a_complete_dataset_exits_0(dataset, tmp_path, monkeypatch):
    prepare(dataset, tmp_path)
    monkeypatch.setitem(DATASETS, 'coco', dataset)
    assert run_tool(['coco', '--check', '--root', str(tmp_path)]) == 0


def test_command_line_prints_user_errors_without_a_traceback(
    dataset, server, tmp_path, monkeypatch
):
    server.down = True
    monkeypatch.setitem(DATASETS, 'coco', dataset)
    assert run_tool(['coco', '--root', str(tmp_path)]).startswith('error: cannot download')


def test_ctrl_c_says_how_to_continue(dataset, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setitem(DATASETS, 'coco', dataset)
    monkeypatch.setattr(module.urllib.request, 'urlopen', interrupted)
    assert run_tool(['coco', '--root', str(tmp_path)]) == 130
    assert 'the same command continues' in capsys.readouterr().err


@pytest.mark.parametrize('name', DATASETS)
def test_published_archives_are_described_plausibly(name):
    dataset = DATASETS[name]
    assert dataset.name == name
    for archive in dataset.archives:
        assert archive.name.endswith('.zip')
        assert len(archive.md5) == 32
        # A digit lost from a size would show here: no published archive shrinks when unpacked.
        assert archive.size <= archive.unpacked <= 2 * archive.size
