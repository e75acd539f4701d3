"""The converters' names for users. An installation has this module as `avesformer_client.convert`."""

from __future__ import annotations

from service.client.convert.arrays import frame_pixels, mask_pixels
from service.client.convert.coco import to_coco, to_coco_images, to_coco_results
from service.client.convert.cvat import mask_points, to_cvat_xml
from service.client.convert.fiftyone_labels import to_fiftyone
from service.client.convert.label_studio import to_label_studio
from service.client.convert.plot import plot
from service.client.convert.supervision import to_detections

__all__ = [
    "frame_pixels",
    "mask_pixels",
    "mask_points",
    "plot",
    "to_coco",
    "to_coco_images",
    "to_coco_results",
    "to_cvat_xml",
    "to_detections",
    "to_fiftyone",
    "to_label_studio",
]
