"""Kill a training at random moments, half of them inside of a write, and see that it goes on.

`python benchmarks/kills.py --kills 40` trains the demo of UperNet with MambaOut-Femto, writes a
checkpoint at each iteration, kills it (SIGKILL, SIGTERM, SIGINT in turn) and starts it again with
--resume, as often as asked. Each start has to take up the newest checkpoint that was whole.
"""

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = [
    'train_cfg.max_iters=100000',
    'train_cfg.val_interval=3',
    'val_dataloader.dataset.indices=2',
    'train_dataloader.batch_size=2',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=2',
    'default_hooks.checkpoint.save_best=mIoU',
    'default_hooks.logger.interval=1',
]


def newest(folder: Path) -> int:
    """The highest iteration with a checkpoint of its final name."""
    numbers = (re.fullmatch(r'iter_(\d+)\.pth', path.name) for path in folder.glob('*.pth'))
    return max((int(found[1]) for found in numbers if found), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=40)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    # A shell's background job ignores SIGINT, and so would what it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    draw = random.Random(args.seed)
    failed = inside = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / 'run'
        command = [sys.executable, str(ROOT / 'tools' / 'train.py')]
        command += [str(ROOT / 'configs/segmentation/upernet_mambaout_femto.py'), '--demo']
        command += ['--resume', '--work-dir', str(folder), '--cfg-options', *OPTIONS]
        for number in range(args.kills):
            before = newest(folder)
            training = subprocess.Popen(
                command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            # From the first iteration on: until then a kill changes nothing in the folder
            goal = before + draw.randint(1, 3)
            while newest(folder) < goal and training.poll() is None:
                time.sleep(0.01)
            in_write = number % 2 == 0
            if in_write:
                while not list(folder.glob('.*.pth')) and training.poll() is None:
                    time.sleep(0.0005)
            else:
                time.sleep(draw.uniform(0, 2))
            kind = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[number // 2 % 3]
            unfinished = [path.stat().st_size for path in folder.glob('.*.pth')]
            inside += bool(unfinished)
            training.send_signal(kind)
            _, err = training.communicate()
            log = (folder / 'output.log').read_text(errors='replace')
            resumed = re.findall(r'resumed epoch: 0, iter: (\d+)', log)
            # SIGTERM and SIGINT let a write come to its end, or take its beginning away
            right = not before or (resumed and int(resumed[-1]) >= before)
            right = right and training.returncode in (-9, 130, 143) and 'Traceback' not in err
            failed += not right
            print(
                f'{number + 1:3} {kind.name} in a write: {unfinished or "no"}, newest before '
                f'{before}, resumed {resumed[-1:]}, exit {training.returncode}, newest now '
                f'{newest(folder)}: {"right" if right else "WRONG " + err[-300:]}',
                flush=True,
            )
    print(f'{args.kills} kills, {inside} inside of a write, {failed} failed to go on')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
