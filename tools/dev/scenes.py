"""Draw street-scene-like images in the Cityscapes folder layout.

The scenes are made so that scale matters. Building and wall are the same
material with the same stains: only the orientation of shade bands 44 to 84 px
wide tells them apart, which takes wide context. Poles of 1 to 2 px, signs of
4 to 7 px and distant vehicles take a fine scale. Car and truck differ by the
orientation of their windows, which are at one end: near ones take context.

No class is defined by an absolute period, a size or a diagonal, so that
every label stays true under random scaling and horizontal flipping.

As in Cityscapes, images of ``train_extra`` have coarse polygons in place of
fine labels; their true labels lie in ``gtTrue``, which Cityscapes does not
have: they show how much there was to be gained.
"""

import argparse
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

# Cityscapes' (labelId, trainId) of every label that is drawn; trainId 255 is
# not trained on.
LABELS = {
    'ego vehicle': (1, 255),
    'rectification border': (2, 255),
    'road': (7, 0),
    'building': (11, 2),
    'wall': (12, 3),
    'pole': (17, 5),
    'traffic sign': (20, 7),
    'vegetation': (21, 8),
    'sky': (23, 10),
    'car': (26, 13),
    'truck': (27, 14),
}
BAND_WIDTH = (44.0, 84.0)  # px; no class depends on the value
SHADE = (24.0, 36.0)  # grey levels between a light and a dark band
# Sigma in grey levels and cell in px. The largest cells are stains whose edges
# look like those of bands, unless one sees how long they are.
FACADE_NOISE = ((7, 1), (5, 3), (9, 12))
VEHICLE_HEIGHT = (4.0, 60.0)  # px
WINDOWS = 0.55  # side of the square they fill, in heights of the vehicle
CITY = 'demoville'
# The last one, as in Cityscapes: images without fine labels.
SPLITS = ('train', 'val', 'test', 'train_extra')
MARKER = 'settings.json'
FORMAT = 1  # to be raised when a seed comes to give other pictures
# Of coarse polygons, in px: how far they keep from the border of a region, how
# far they may be from the eroded outline (less, so that they do not leave the
# region), and the smallest area of an eroded region that gets one.
COARSE_MARGIN, COARSE_TOLERANCE, COARSE_AREA = 3, 2.0, 40


class _Canvas:
    """Image and label of one scene, painted from back to front."""

    def __init__(self, rng, size):
        self.rng = rng
        self.height, self.width = size
        self.image = np.zeros((*size, 3))
        self.label_ids = np.zeros(size, np.uint8)

    def box(self, top, left, height, width):
        """Index of the pixels whose centres lie in a rectangle."""
        # Clipping at 0 keeps negative bounds from counting from the end.
        bounds = (top, top + height, left, left + width)
        top, bottom, left, right = (max(0, round(b)) for b in bounds)
        return np.s_[top:bottom, left:right]

    def paint(self, box, colour, name=None, mask=None, noise=()):
        """Set colour and label in a box, or where a mask of the box says.

        Args:
            box (tuple[slice, slice]): From :meth:`box`.
            colour (float | ndarray): Broadcastable to the box's (h, w, 3).
            name (str, optional): Its label is set; none leaves the label.
            mask (ndarray, optional): Which pixels of the box, bool (h, w).
            noise (Iterable[tuple[float, int]]): Sigma and cell size of grey
                noise that is added.
        """
        rows, cols = self.label_ids[box].shape
        colour = np.broadcast_to(np.asarray(colour, float), (rows, cols, 3))
        for sigma, cell in noise:
            cells = self.rng.normal(
                0, sigma, (rows // cell + 1, cols // cell + 1)
            )
            fine = cells.repeat(cell, 0).repeat(cell, 1)
            colour = colour + fine[:rows, :cols, None]
        mask = np.s_[:] if mask is None else mask
        self.image[box][mask] = colour[mask]
        if name is not None:
            self.label_ids[box][mask] = LABELS[name][0]


def _draw_facade(canvas, top, left, height, width):
    """Paint a building (upright bands) or a wall (level bands)."""
    rng = canvas.rng
    box = canvas.box(top, left, height, width)
    rows, cols = canvas.label_ids[box].shape
    name = ('building', 'wall')[rng.integers(2)]
    along = np.arange(cols if name == 'building' else rows)
    # The first edge lies inside, so that every facade shows its orientation.
    edges = [rng.uniform(20, BAND_WIDTH[0])]
    while edges[-1] < len(along):
        edges.append(edges[-1] + rng.uniform(*BAND_WIDTH))
    band = np.searchsorted(edges, along, side='right') % 2 - 0.5
    band = band[None, :, None] if name == 'building' else band[:, None, None]
    shade = rng.choice((-1, 1)) * rng.uniform(*SHADE)
    colour = rng.uniform(105, 150) + rng.uniform(-8, 8, 3)
    canvas.paint(box, colour + shade * band, name, noise=FACADE_NOISE)


def _draw_tree(canvas, ground):
    rng = canvas.rng
    radius = rng.uniform(8, 20)
    middle = ground - radius * rng.uniform(0.6, 1.3)
    centre = rng.uniform(0, canvas.width)
    box = canvas.box(0, centre - 2 * radius, ground, 4 * radius)
    rows, cols = (grid[box] for grid in np.indices(canvas.label_ids.shape))
    mask = np.zeros(rows.shape, bool)
    for _ in range(7):
        row = middle + rng.uniform(-0.6, 0.6) * radius
        col = centre + rng.uniform(-0.6, 0.6) * radius
        leaf = radius * rng.uniform(0.4, 0.8)
        mask |= (rows - row) ** 2 + (cols - col) ** 2 < leaf**2
    green = np.array([75, 105, 60]) + rng.uniform(-12, 12, 3)
    canvas.paint(box, green, 'vegetation', mask=mask, noise=((20, 2),))


def _draw_pole(canvas, ground):
    rng = canvas.rng
    left, width = rng.uniform(3, canvas.width - 3), rng.integers(1, 3)
    height, bottom = rng.uniform(30, 75), ground + rng.uniform(0, 6)
    pole = canvas.box(bottom - height, round(left), height, width)
    canvas.paint(pole, rng.uniform(50, 80), 'pole')
    if rng.random() < 0.8:
        _draw_sign(canvas, bottom - height, left)


def _draw_sign(canvas, row, col):
    rng = canvas.rng
    side = rng.integers(4, 8)
    colour = ((220, 40, 40), (40, 80, 220), (235, 200, 40))[rng.integers(3)]
    top, left = round(row) - side // 2, round(col) - side // 2
    canvas.paint(canvas.box(top, left, side, side), colour, 'traffic sign')
    core = canvas.box(top + side // 3, left + side // 3, side // 3, side // 3)
    canvas.paint(core, 225)


def _draw_vehicle(canvas, ground, height):
    """Paint a car (level windows) or a truck (upright windows)."""
    rng = canvas.rng
    name = ('car', 'truck')[rng.integers(2)]
    width = height * rng.uniform(1.3, 1.7)
    # The bigger, the nearer: its wheels stand lower in the image.
    nearness = 0.1 + 0.7 * height / VEHICLE_HEIGHT[1]
    top = ground + (canvas.height - ground) * nearness - height
    left = rng.uniform(-0.3 * width, canvas.width - 0.7 * width)
    body = rng.uniform(60, 200) + rng.uniform(-45, 45, 3)
    box = canvas.box(top, left, height, width)
    canvas.paint(box, body, name, noise=((6, 1),))
    glass = rng.uniform(15, 45) if body.mean() > 110 else rng.uniform(200, 240)
    # Both windows at one end: the other end of a near one is plain body.
    side = WINDOWS * height
    left += rng.integers(2) * (width - 1.2 * side) + 0.1 * side
    top += 0.15 * height
    for start in (0.0, 0.6):
        window = (top + start * side, left, 0.4 * side, side)
        if name == 'truck':
            window = (top, left + start * side, side, 0.4 * side)
        canvas.paint(canvas.box(*window), glass)


def draw_scene(rng, size=(128, 256)):
    """Draw an RGB image, uint8 (H, W, 3), and its labelIds, uint8 (H, W)."""
    canvas = _Canvas(rng, size)
    height, width = size
    ground = height * rng.uniform(0.72, 0.8)
    sky = np.array([170, 190, 210]) + rng.uniform(-15, 15, 3)
    canvas.paint(np.s_[:, :], sky, 'sky', noise=((5, 1),))
    road = canvas.box(ground, 0, height, width)
    canvas.paint(road, rng.uniform(85, 110), 'road', noise=((9, 1),))
    left = -rng.uniform(0, 30)
    while left < width:
        facade, top = rng.uniform(80, 180), rng.uniform(0, 0.12) * height
        if width - left - facade < 80:  # too narrow to show its orientation
            facade = width - left
        _draw_facade(canvas, top, left, ground - top, facade)
        left += facade + (rng.uniform(6, 24) if rng.random() < 0.5 else 0)
    for _ in range(rng.integers(1, 4)):
        _draw_tree(canvas, ground)
    for _ in range(rng.integers(5, 10)):
        _draw_pole(canvas, ground)
    # Log-uniform: most are small. Far ones first, near ones hide them.
    heights = np.exp(rng.uniform(*np.log(VEHICLE_HEIGHT), rng.integers(5, 10)))
    for vehicle in np.sort(heights):
        _draw_vehicle(canvas, ground, vehicle)
    # Cityscapes does not label the car's own bonnet and the image border.
    name = 'rectification border'
    for box in np.s_[:2, :], np.s_[:, :2], np.s_[:, -2:]:
        canvas.label_ids[box] = LABELS[name][0]
    bonnet = canvas.box(height - 4, 0.1 * width, 4, 0.8 * width)
    canvas.paint(bonnet, 40, 'ego vehicle', noise=((4, 1),))
    return canvas.image.clip(0, 255).round().astype(np.uint8), canvas.label_ids


def to_train_ids(label_ids):
    """Map Cityscapes labelIds to trainIds, both uint8; 255 is ignored."""
    table = np.full(256, 255, np.uint8)
    for label_id, train_id in LABELS.values():
        table[label_id] = train_id
    return table[label_ids]


def coarse_polygons(label_ids):
    """Draw coarse labels in the manner of Cityscapes' gtCoarse.

    An annotator with a few minutes per image draws polygons of few corners
    well inside of things, and leaves out what is small. Here every connected
    region of a label is eroded, regions that are then small are dropped, and
    the outlines of the others are simplified. One rule for all classes: which
    of them suffer is up to their shapes.
    """
    coarse = np.zeros_like(label_ids)
    kernel = np.ones((2 * COARSE_MARGIN + 1,) * 2, np.uint8)
    for value in np.unique(label_ids):
        # The border of the image is no border of a thing: OpenCV does not
        # erode from there.
        inside = cv2.erode((label_ids == value).astype(np.uint8), kernel)
        count, regions = cv2.connectedComponents(inside, connectivity=4)
        for number in range(1, count):
            region = (regions == number).astype(np.uint8)
            if region.sum() < COARSE_AREA:
                continue
            outlines, _ = cv2.findContours(
                region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
            )
            found = [
                cv2.approxPolyDP(o, COARSE_TOLERANCE, True) for o in outlines
            ]
            # All at once: what two of them enclose is a hole.
            drawn = np.zeros_like(region)
            cv2.fillPoly(drawn, [p for p in found if len(p) > 2], 1)
            coarse[drawn > 0] = value
    return coarse


def generate(out, seed, num_images, size=(128, 256)):
    """Write a data set in the Cityscapes layout, unless it is there.

    The same arguments give the same bytes. A folder is complete or absent:
    the images are written beside it and moved into place at the end.

    An image depends on the seed, its split and its number.
    """
    out = Path(out)
    if min(*num_images.values(), *size) < 1 or {*num_images} - {*SPLITS}:
        raise ValueError(
            f'expected positive numbers of images in {SPLITS} and a positive '
            f'size, got {num_images} and {size}'
        )
    settings = dict(format=FORMAT, seed=seed, num_images=num_images)
    settings['size'] = [*size]
    marker = out / MARKER
    if marker.exists() and json.loads(marker.read_text()) == settings:
        return
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(
            f'{out} is not empty and its {MARKER} is not {settings}; expected '
            'a new or empty folder'
        )
    partial = out.with_name(out.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    for split, count in num_images.items():
        for index in range(count):
            rng = np.random.default_rng([seed, SPLITS.index(split), index])
            _write_scene(partial, split, index, *draw_scene(rng, size))
    (partial / MARKER).write_text(json.dumps(settings, indent=2) + '\n')
    if out.exists():
        out.rmdir()
    partial.rename(out)


def _write_scene(root, split, index, image, label_ids):
    name = f'{CITY}_{index:06d}_000019'
    is_coarse = split == SPLITS[-1]
    fine = 'gtTrue' if is_coarse else 'gtFine'
    files = [
        ('leftImg8bit', 'leftImg8bit', image),
        (fine, 'gtFine_labelIds', label_ids),
        (fine, 'gtFine_labelTrainIds', to_train_ids(label_ids)),
    ]
    if is_coarse:
        polygons = coarse_polygons(label_ids)
        files.append(('gtCoarse', 'gtCoarse_labelIds', polygons))
    for kind, suffix, pixels in files:
        folder = root / kind / split / CITY
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f'{name}_{suffix}.png')


def main(argv=None):
    """Parse the command line and generate."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', required=True, help='folder to write')
    parser.add_argument('--seed', type=int, default=0)
    for split, count in zip(SPLITS, (240, 60, 60, 0)):
        parser.add_argument(f'--{split}', type=int, default=count)
    args = parser.parse_args(argv)
    counts = {split: getattr(args, split) for split in SPLITS}
    counts = {split: count for split, count in counts.items() if count}
    generate(args.out, args.seed, counts)


if __name__ == '__main__':
    main()
