from .counts import class_iou, make_record, scale_class_iou, scale_shares
from .pictures import draw_pictures
from .records import (
    Record,
    read_record,
    read_records,
    read_run,
    write_pictures,
    write_record,
    write_run,
)

__all__ = [
    'Record',
    'class_iou',
    'draw_pictures',
    'make_record',
    'read_record',
    'read_records',
    'read_run',
    'scale_class_iou',
    'scale_shares',
    'write_pictures',
    'write_record',
    'write_run',
]
