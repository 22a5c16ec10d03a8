"""What COCO 2017 and ADE20K consist of: archives, checksums, sizes and folders."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A zip file and what the training needs from it.

    Args:
        url (str): Where it is published.
        md5 (str): Its MD5 checksum.
        size (int): Its size in bytes.
        unpacked (int): Bytes on the disk that ``contents`` take, rounded up.
        contents (dict[str, int]): Folders and files to unpack, as named in the archive; the value
            is the number of images in the folder, 1 for a file. The rest of the archive stays
            packed.
    """

    url: str
    md5: str
    size: int
    unpacked: int
    contents: dict[str, int]

    @property
    def name(self) -> str:
        """File name of the archive, the end of its URL."""
        return self.url.rsplit('/', 1)[-1]


@dataclass(frozen=True)
class Dataset:
    """A dataset that ``prepare`` can put on the disk.

    Args:
        name (str): The word typed on the command line.
        folder (str): Folder below the root that the archives are unpacked into.
        archives (tuple[Archive, ...]): What it consists of.
        config (str): A config that trains on it, for the hint printed at the end.
    """

    name: str
    folder: str
    archives: tuple[Archive, ...]
    config: str


# URLs: cocodataset.org/#download and sceneparsing.csail.mit.edu. Checksums and sizes are those that
# public code downloads with; nobody has run this table against the servers yet:
# - MD5 of COCO: ppdet/utils/download.py of PaddlePaddle/PaddleDetection.
# - MD5 of ADE20K: data.py of facebookresearch/capi and segmentation_robustness_framework/datasets/
#   ade20k.py of wntic/segmentation-robustness-framework.
# - Sizes: coco.txt and ade20k.txt in tensorflow_datasets/url_checksums of tensorflow/datasets.
# Folders: _base_/datasets/coco_instance.py of mmdet and _base_/datasets/ade20k.py of mmseg.
# `unpacked` is an estimate for the images: they hardly compress, so the size of the archive plus
# half a 4 KiB disk block for each file.
DATASETS = {
    'coco': Dataset(
        name='coco',
        folder='coco',
        # Small ones first: a wrong setup shows before the 19 GB.
        archives=(
            Archive(
                url='http://images.cocodataset.org/annotations/annotations_trainval2017.zip',
                md5='f4bbac642086de4f52a3fdda2de5fa2c',
                size=252_907_541,
                unpacked=500_000_000,
                contents={
                    'annotations/instances_train2017.json': 1,
                    'annotations/instances_val2017.json': 1,
                },
            ),
            Archive(
                url='http://images.cocodataset.org/zips/val2017.zip',
                md5='442b8da7639aecaf257c1dceb8ba8c80',
                size=815_585_330,
                unpacked=850_000_000,
                contents={'val2017': 5_000},
            ),
            Archive(
                url='http://images.cocodataset.org/zips/train2017.zip',
                md5='cced6f7f71b7629ddf16f17bbcfab6b2',
                size=19_336_861_798,
                unpacked=20_000_000_000,
                contents={'train2017': 118_287},
            ),
        ),
        config='configs/detection/maskrcnn_mambaout_t.py',
    ),
    'ade20k': Dataset(
        name='ade20k',
        folder='ade',
        archives=(
            Archive(
                url='http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip',
                md5='7328b3957e407ddae1d3cbf487f149ef',
                size=967_382_037,
                unpacked=1_200_000_000,
                contents={
                    'ADEChallengeData2016/images/training': 20_210,
                    'ADEChallengeData2016/images/validation': 2_000,
                    'ADEChallengeData2016/annotations/training': 20_210,
                    'ADEChallengeData2016/annotations/validation': 2_000,
                },
            ),
        ),
        config='configs/segmentation/upernet_mambaout_t.py',
    ),
}
