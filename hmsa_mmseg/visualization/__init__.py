from .counts import class_iou, make_record
from .pictures import draw_pictures
from .records import (
    FOLDER,
    Record,
    check_run,
    read_record,
    read_records,
    read_run,
    write_pictures,
    write_record,
    write_run,
)
from .scale_maps_visualization_hook import ScaleMapsVisualizationHook
from .scale_maps_visualizer import ScaleMapsVisualizer

__all__ = [
    'FOLDER',
    'Record',
    'ScaleMapsVisualizationHook',
    'ScaleMapsVisualizer',
    'check_run',
    'class_iou',
    'draw_pictures',
    'make_record',
    'read_record',
    'read_records',
    'read_run',
    'write_pictures',
    'write_record',
    'write_run',
]
