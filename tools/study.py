"""Which token mixer is best on one's own data? `python tools/study.py CONFIG --mixers conv ssm`."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from rich.console import Console

from mambaout_mm.backbones.gated_blocks import MIXERS
from mambaout_mm.compat.coco_evaluation import use_faster_coco_eval
from mambaout_mm.errors import UserError, add_debug_argument, exit_with_a_sentence
from mambaout_mm.files import check_folder
from mambaout_mm.measure.image_size import image_size
from mambaout_mm.study.execute import run_task
from mambaout_mm.study.plan import (
    Candidate,
    Task,
    candidates_of_backbones,
    candidates_of_mixers,
    on_demo_data,
    tasks_of,
)
from mambaout_mm.study.report import PAGE, read_study, write_study

TOOLS = Path(__file__).parent


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='a config of a detector or segmentor')
    parser.add_argument(
        '--mixers',
        nargs='+',
        choices=MIXERS,
        default=[],
        help='token mixers to put into its MambaOut; the others are held against the first',
    )
    parser.add_argument(
        '--stages',
        nargs='+',
        type=int,
        choices=(1, 2, 3, 4),
        default=[3, 4],
        help='that have the mixer; the others have convolutions (default: 3 4)',
    )
    parser.add_argument(
        '--scratch',
        action='store_true',
        help='start all from random weights, at one cost; else as the config says',
    )
    parser.add_argument(
        '--size',
        type=image_size,
        default=(512, 512),
        metavar='HxW',
        help='of the image at which costs are made equal (default: 512x512)',
    )
    parser.add_argument(
        '--backbones',
        nargs='+',
        default=[],
        metavar='NAME',
        help='networks by the names of tools/compare.py, from random weights',
    )
    parser.add_argument('--seeds', type=int, default=3, help='of each candidate (default: 3)')
    parser.add_argument('--out', type=Path, help='folder (default: work_dirs/study_CONFIG)')
    parser.add_argument(
        '--demo', action='store_true', help='on the small embedded data set, to see what comes'
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--gpus', type=int, default=1, help='of each training (default: 1)')
    parser.add_argument('--only', metavar='CANDIDATE/SEED', help='one task, as --dry-run names it')
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='print a command for each task that is not done, to be run anywhere on this folder',
    )
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    if not args.mixers and not args.backbones:
        parser.error('name candidates by --mixers or --backbones')
    if len(set(args.mixers)) + len(set(args.backbones)) < 2:
        parser.error('one candidate has nothing to be held against; name two or more')
    if args.seeds < 1 or args.gpus < 1:
        parser.error('--seeds and --gpus must be at least 1')
    return args


def find(tasks: list[Task], name: str) -> Task:
    """The task that ``--only`` names.

    Raises:
        UserError: If there is none.
    """
    for task in tasks:
        if task.name == name:
            return task
    raise UserError(f'--only {name!r} is no task; there are {", ".join(t.name for t in tasks)}')


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    console = Console(highlight=False, soft_wrap=True)
    use_faster_coco_eval()  # before anything imports pycocotools
    with exit_with_a_sentence(args.debug):
        if not args.config.is_file():
            raise UserError(f'there is no config {str(args.config)!r}')
        out = check_folder(args.out or f'work_dirs/study_{args.config.stem}', '--out')
        config = on_demo_data(args.config, out) if args.demo else args.config
        candidates: list[Candidate] = []
        if args.mixers:
            candidates += candidates_of_mixers(
                config, args.mixers, args.stages, args.scratch, args.size, out
            )
        if args.backbones:
            candidates += candidates_of_backbones(config, args.backbones, out)
        tasks = tasks_of(candidates, args.seeds, out)
        if args.dry_run:
            given = [x for x in (sys.argv[1:] if argv is None else argv) if x != '--dry-run']
            for task in tasks:
                if not task.predictions.exists():
                    script = os.path.relpath(__file__)
                    print(shlex.join(['python', script, *given, '--only', task.name]))
            return
        options = ['--amp'] if args.amp else []
        failed = 0
        for task in [find(tasks, args.only)] if args.only else tasks:
            console.print(f'{task.name}: {"done before" if task.predictions.exists() else "runs"}')
            reason = run_task(TOOLS, task, args.gpus, options)
            if reason:
                failed += 1
                console.print(f'{task.name} failed: {reason} (see {task.folder / "study.log"})')
        if not args.only:
            sentences = write_study(read_study(tasks), f'Study of {args.config.stem}', out)
            for sentence in sentences:
                console.print(sentence)
            console.print(f'{out / PAGE} has the whole answer')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
