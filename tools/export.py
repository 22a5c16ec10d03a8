"""Write a trained model as ONNX: `python tools/export.py CONFIG CHECKPOINT --out model.onnx`."""

import argparse
from pathlib import Path

from mambaout_mm.checkpoints import checkpoints_are_data
from mambaout_mm.errors import UserError, add_debug_argument, exit_with_a_sentence
from mambaout_mm.files import check_folder
from mambaout_mm.training.checks import load_config
from mambaout_mm.training.parts import check_parts
from mambaout_mm.trust import add_trust_argument, trusting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path, URL or catalogue name of the checkpoint')
    parser.add_argument('--out', type=Path, help="file (default: the checkpoint's name, .onnx)")
    add_trust_argument(parser)
    add_debug_argument(parser)
    args = parser.parse_args()
    out = args.out or Path(Path(args.checkpoint.rpartition('://')[2]).stem + '.onnx')
    with exit_with_a_sentence(args.debug), trusting(args.trust), checkpoints_are_data():
        if out.suffix != '.onnx':
            raise UserError(f'--out {str(out)!r} must end in .onnx')
        check_folder(out.parent, 'the folder of --out')
        cfg = load_config(args.config)
        check_parts(cfg)
        try:
            from mambaout_mm.export.write import write_onnx
        except ModuleNotFoundError as error:
            raise UserError(
                f'tools/export.py needs {error.name}: pip install onnx onnxscript onnxruntime'
            ) from error
        write_onnx(cfg, args.checkpoint, out)
        print(f'{out}: {out.stat().st_size / 1e6:.1f} MB; tools/test.py takes it as a checkpoint')


if __name__ == '__main__':
    main()
