_base_ = [
    './_base_/mask_rcnn_fpn.py',
    './_base_/coco_instance.py',
    './_base_/schedule_1x.py',
    './_base_/runtime.py',
]
