"""Pictures and one HTML page of a finished demo.

Shape shorthand in this module:
    H, W: image size.
"""

from pathlib import Path
from typing import NamedTuple

import jinja2
import matplotlib
import numpy as np
from methods import (
    METHODS,
    MODELS,
    load_dataset,
    mean_rows,
    read_ids,
    to_class_ids,
    write_json,
)
from PIL import Image, ImageDraw

from hmsa_mmseg.visualization.data_uris import data_uri

NUM_SHOWN = 4  # the first images of the split, not chosen ones
OVERLAY = 0.65  # share of the class colours
SCALES = (0.5, 1.0, 2.0)  # of the pictures of attention
ZOOM = 2  # the pictures' pixels in the files on disk


class Picture(NamedTuple):
    """One picture of a sample.

    Attributes:
        key (str): Part of its file name.
        title (str): Caption.
        pixels (ndarray): uint8 (H, W, 3).
    """

    key: str
    title: str
    pixels: np.ndarray

    @property
    def is_map(self):
        """Whether it shows attention or a weight."""
        return self.key.startswith(('attn', 'weight'))


def write_report(args, runs, rows):
    """Write ``results.json``, ``pictures/`` and ``index.html``.

    Args:
        args (argparse.Namespace): Of the run.
        runs (dict[int, SeedRun]): By seed; pictures are of the first one.
        rows (dict[int, dict]): Table rows by seed.
    """
    summary = dict(
        split=args.split,
        iters=args.iters,
        images=list(args.images),
        threads=args.threads,
        **{
            times: {seed: round(runs[seed].total(times)) for seed in runs}
            for times in ('seconds', 'cpu_seconds')
        },
        seeds=rows,
        mean=mean_rows([*rows.values()]),
    )
    write_json(args.out / 'results.json', summary)
    run = runs[args.seeds[0]]
    dataset = load_dataset('single', run.data, args.split)
    samples = _draw_samples(run, dataset)
    folder = args.out / 'pictures'
    folder.mkdir(exist_ok=True)
    for number, pictures in enumerate(samples):
        for picture in pictures:
            path = folder / f'{number}_{picture.key}.png'
            _enlarge(picture.pixels).save(path)
    sheet = ['input', 'truth', 'single', 'averaged', 'hier-3']
    _contact_sheet(samples, sheet).save(folder / 'predictions.png')
    sheet = ['input', 'attn_0.5', 'weight_1', 'weight_2']
    _contact_sheet(samples, sheet).save(folder / 'attention.png')
    _write_page(args, summary, samples, dataset.metainfo)


def _draw_samples(run, dataset):
    """Draw the pictures of the first images; a list of lists."""
    palette = np.array(dataset.metainfo['palette'], np.uint8)
    model = _load_model('hierarchical', run.checkpoint('hierarchical'))
    samples = []
    for number in range(min(NUM_SHOWN, len(dataset))):
        info = dataset[number]
        image = read_ids(info['img_path'])
        truth = to_class_ids(read_ids(info['seg_map_path']), dataset)
        colours = np.zeros_like(image)
        valid = truth != dataset.ignore_index
        colours[valid] = palette[truth[valid]]
        pictures = [
            Picture('input', 'input', image),
            Picture('truth', 'ground truth', colours),
        ]
        for method in METHODS:
            name = Path(info['img_path']).name
            predicted = read_ids(run.predictions(method) / name)
            mixed = OVERLAY * palette[predicted] + (1 - OVERLAY) * image
            title = method.title
            pictures.append(Picture(method.key, title, _to_uint8(mixed)))
        pictures += _draw_scales(model, info['img_path'])
        samples.append(pictures)
    return samples


def _load_model(model, checkpoint):
    from mmseg.apis import init_model

    test_cfg = dict(mode='whole', scales=SCALES, scale_maps=True)
    return init_model(
        str(MODELS[model]),
        str(checkpoint),
        device='cpu',
        cfg_options={'model.test_cfg': test_cfg},
    )


def _draw_scales(model, image_path):
    """Draw attention, and the weights of the scales in the blend."""
    from mmseg.apis import inference_model

    result = inference_model(model, image_path)
    pictures = []
    for scale, attn in zip(SCALES, result.scale_attn.data.numpy()):
        key, title = f'attn_{scale:g}', f'attention at {scale:g}'
        pictures.append(Picture(key, title, _heat(attn)))
    weights = result.scale_weights.data.numpy()
    # The weight of the lowest scale is its attention.
    for scale, weight in zip(SCALES[1:], weights[1:]):
        key, title = f'weight_{scale:g}', f'weight of {scale:g} in the blend'
        pictures.append(Picture(key, title, _heat(weight)))
    return pictures


def _heat(values):
    """Colour an array in [0, 1], dark to bright."""
    return _to_uint8(255 * matplotlib.colormaps['viridis'](values)[..., :3])


def _to_uint8(values):
    return values.round().clip(0, 255).astype(np.uint8)


def _enlarge(pixels):
    return Image.fromarray(pixels.repeat(ZOOM, 0).repeat(ZOOM, 1))


def _contact_sheet(samples, keys, num_rows=2, margin=4, header=16):
    """Put pictures on one sheet: a column per key, a row per sample."""
    table = [{p.key: p for p in pictures} for pictures in samples[:num_rows]]
    height, width, _ = samples[0][0].pixels.shape
    size = (
        (width + margin) * len(keys) - margin,
        header + (height + margin) * len(table) - margin,
    )
    sheet = Image.new('RGB', size, 'white')
    draw = ImageDraw.Draw(sheet)
    for col, key in enumerate(keys):
        left = col * (width + margin)
        draw.text((left + 2, 2), table[0][key].title, fill='black')
        for row, pictures in enumerate(table):
            tile = Image.fromarray(pictures[key].pixels)
            sheet.paste(tile, (left, header + row * (height + margin)))
    return sheet.quantize(256)  # a third of the file


def _data_uri(pixels):
    return data_uri(Image.fromarray(pixels), optimize=True)


def _write_page(args, summary, samples, metainfo):
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True)
    environment.filters['data_uri'] = _data_uri
    miou = {key: row['mIoU'] for key, row in summary['mean'].items()}
    num_seeds = len(summary['seeds'])
    tables = [
        (f'Seed {seed}', rows) for seed, rows in summary['seeds'].items()
    ]
    if num_seeds > 1:
        tables.insert(0, (f'Mean of {num_seeds} seeds', summary['mean']))
    text = environment.get_template('page.html.j2').render(
        summary=summary,
        seed=args.seeds[0],
        methods=METHODS,
        tables=tables,
        miou=miou,
        is_papers_order=miou['hier-3'] > miou['averaged'] > miou['single'],
        classes=metainfo['classes'],
        colours=[f'#{bytes(c).hex()}' for c in metainfo['palette']],
        minutes=sum(summary['seconds'].values()) / 60 / num_seeds,
        samples=samples,
    )
    partial = args.out / 'index.html.partial'
    partial.write_text(text, encoding='utf-8')
    partial.replace(args.out / 'index.html')
