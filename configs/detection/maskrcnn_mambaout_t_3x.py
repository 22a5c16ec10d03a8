_base_ = [
    './_base_/mask_rcnn_fpn.py',
    './_base_/coco_instance_multiscale.py',
    './_base_/schedule_3x.py',
    './_base_/runtime.py',
]
