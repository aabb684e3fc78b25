"""The authors' reading of labels, transcribed for comparison.

NVIDIA/semantic-segmentation, datasets/base_loader.py (`read_images`,
`__getitem__`) and datasets/uniform.py (`class_centroids_image`): the same
operations on arrays in the same order, without files and switches.
"""

import numpy as np

# datasets/cityscapes_labels.py: label2trainid, in its order, without its last
# entry: -1, which no image of 8 bits has and numpy 2 refuses to write.
TRAIN_IDS = (
    *(255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255),
    *(255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18),
)
LABEL_TO_TRAIN_ID = dict(enumerate(TRAIN_IDS))
DROP_MASK = np.zeros((1024, 2048))
DROP_MASK[15:840, 14:2030] = 1.0


def read_images(mask, coarse, dropout_classes, drop_mask=None):
    if drop_mask is not None:
        mask = drop_mask * mask
    mask = mask.copy()
    for k, v in LABEL_TO_TRAIN_ID.items():
        binary_mask = mask == k
        if v in dropout_classes and binary_mask.sum() > 0:
            binary_mask += coarse == k
            binary_mask[binary_mask >= 1] = 1
            mask[binary_mask] = coarse[binary_mask]
        mask[binary_mask] = v
    return mask.astype(np.uint8)


def apply_threshold(mask, prob, threshold):
    mask = mask.copy()
    prob_map = prob / 255.0
    mask[prob_map < threshold] = 255
    return mask


def label_for_centroids(mask, coarse, dropout_classes):
    mask = mask.copy()
    mask_copy = mask.copy()
    for k, v in LABEL_TO_TRAIN_ID.items():
        binary_mask = mask_copy == k
        if v in dropout_classes and binary_mask.sum() > 0:
            binary_mask += coarse == k
            binary_mask[binary_mask >= 1] = 1
            mask[binary_mask] = coarse[binary_mask]
        mask[binary_mask] = v
    return mask


def centroids(label, tile_size, num_classes=19):
    found = []
    height, width = label.shape
    for y in range(height // tile_size):
        for x in range(width // tile_size):
            top, left = y * tile_size, x * tile_size
            patch = label[top : top + tile_size, left : left + tile_size]
            for class_id in range(num_classes):
                if class_id in patch:
                    # scipy.ndimage.center_of_mass of a mask of 0 and 1.
                    rows, columns = np.nonzero(patch == class_id)
                    found.append(
                        (
                            int(columns.mean()) + left,
                            int(rows.mean()) + top,
                            class_id,
                        )
                    )
    return found
