"""Pure functions from predictions and references to figures; numpy only, no model, no files."""

from paligemma.metrics.calibration import Bin, Calibration, expected_calibration_error, fit, reliability
from paligemma.metrics.detection import Match, average_precision, box_iou, match
from paligemma.metrics.segmentation import mask_iou
from paligemma.metrics.text import character_error_rate, exact_match, word_accuracy

__all__ = [
    "Bin",
    "Calibration",
    "Match",
    "average_precision",
    "box_iou",
    "character_error_rate",
    "exact_match",
    "expected_calibration_error",
    "fit",
    "mask_iou",
    "match",
    "reliability",
    "word_accuracy",
]
