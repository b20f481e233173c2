"""Pure functions from predictions and references to figures; numpy only, no model, no files."""

from paligemma.metrics.calibration import Bin, Calibration, expected_calibration_error, fit, reliability
from paligemma.metrics.detection import Match, average_precision, box_iou, match
from paligemma.metrics.segmentation import mask_iou

__all__ = [
    "Bin",
    "Calibration",
    "Match",
    "average_precision",
    "box_iou",
    "expected_calibration_error",
    "fit",
    "mask_iou",
    "match",
    "reliability",
]
