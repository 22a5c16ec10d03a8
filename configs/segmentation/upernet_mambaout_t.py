_base_ = [
    './_base_/upernet.py',
    './_base_/ade20k.py',
    './_base_/schedule_160k.py',
    './_base_/runtime.py',
]
