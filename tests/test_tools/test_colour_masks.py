"""Masks of colours become masks of class numbers."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hmsa_mmseg.datasets import LoadSegLabels
from hmsa_mmseg.datasets.class_names import read_classes

CAMVID = Path(__file__).parents[2] / 'configs/camvid/camvid32_to_11.txt'
TABLE = """\
# red green blue
128 64 128\troad
0 0 192\t\tside walk  # a name of two words
lane 250 170 30
10 20 30 road

0 0 0 Void
"""
ROAD, WALK, LANE, ROAD_2, VOID = (
    *((128, 64, 128), (0, 0, 192), (250, 170, 30), (10, 20, 30)),
    (0, 0, 0),
)
NUMBERS = {ROAD: 0, WALK: 1, LANE: 2, ROAD_2: 0, VOID: 255}


@pytest.fixture(scope='module')
def tool(load_tool):
    return load_tool('dataset_converters/colour_masks.py')


def picture(seed=0, shape=(13, 17)):
    """Random colours of the table, (H, W, 3)."""
    numbers = np.random.default_rng(seed).integers(0, 5, shape)
    return np.array([*NUMBERS], np.uint8)[numbers]


def save(path, pixels, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **kwargs)


@pytest.fixture
def argv(tmp_path):
    """The command line for two masks, one in a sub-folder."""
    (tmp_path / 'table.txt').write_text(TABLE)
    save(tmp_path / 'rgb/a_L.png', picture(0))
    save(tmp_path / 'rgb/sub/b_L.png', picture(1))
    return [
        *(str(tmp_path / 'rgb'), str(tmp_path / 'new/masks')),
        *('--table', str(tmp_path / 'table.txt')),
    ]


def converted(tool, argv, *options):
    """The results of a run, by their names."""
    assert tool.main([*argv, *options]) == 0
    out = Path(argv[1])
    return {
        path.relative_to(out).as_posix(): np.array(Image.open(path))
        for path in out.rglob('*')
        if path.is_file()
    }


def fails(tool, capsys, argv, *options):
    assert tool.main([*argv, *options]) == 1
    message = capsys.readouterr().err
    assert 'error: ' in message
    return message


def by_hand(pixels, numbers=NUMBERS):
    """Look each pixel up on its own."""
    height, width, _ = pixels.shape
    result = np.empty((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            result[y, x] = numbers[tuple(pixels[y, x].tolist())]
    return result


def test_each_pixel_gets_its_class(tool, argv, capsys, tmp_path):
    results = converted(tool, argv, '--strip-suffix', '_L')
    expected = {'a.png': by_hand(picture(0)), 'sub/b.png': by_hand(picture(1))}
    assert results.keys() == expected.keys()
    for name, labels in expected.items():
        assert results[name].dtype == np.uint8
        assert np.array_equal(results[name], labels)
    file = Path(argv[1]).with_name('classes.txt')
    assert read_classes(str(file)) == (
        ('road', 'side walk', 'lane'),
        [[128, 64, 128], [0, 0, 192], [250, 170, 30]],
    )
    # The table of the pixels.
    both = np.concatenate([*expected.values()])
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line[-1] == '%']
    names = {'0': 'road', '1': 'walk', '2': 'lane', '255': 'Void'}
    assert {row[0]: (row[-3], int(row[-2])) for row in rows} == {
        value: (name, (both == int(value)).sum())
        for value, name in names.items()
    }
    # The label loader takes the result.
    path = str(Path(argv[1], 'a.png'))
    loader = LoadSegLabels(num_classes=3)
    loaded = loader(dict(seg_map_path=path, ori_shape=(13, 17)))
    assert np.array_equal(loaded['gt_seg_map'], expected['a.png'])
    # Results are written anew.
    save(tmp_path / 'rgb/a_L.png', picture(9))
    after = converted(tool, argv, '--strip-suffix', '_L')
    assert np.array_equal(after['a.png'], by_hand(picture(9)))


def test_classes_that_are_given_number_the_rest_away(tool, argv, tmp_path):
    names = tmp_path / 'names.txt'
    names.write_text('Void 1 2 3\nside walk 4 5 6\n')
    file = tmp_path / 'other.txt'
    numbers = dict.fromkeys(NUMBERS, 255) | {VOID: 0, WALK: 1}
    results = converted(
        tool, argv, '--classes', str(names), '--classes-out', str(file)
    )
    assert np.array_equal(results['a_L.png'], by_hand(picture(0), numbers))
    assert file.read_text() == names.read_text()
    assert not Path(argv[1]).with_name('classes.txt').exists()


def test_camvid_has_the_classes_of_segnet(tool, tmp_path):
    groups = """
        sky 128 128 128
        building 128 0 0, 192 0 128, 0 128 64, 64 0 64, 64 192 0
        pole 192 192 128, 0 0 64
        road 128 64 128, 128 0 192, 192 0 64
        pavement 0 0 192, 64 192 128, 128 128 192
        tree 128 128 0, 192 192 0
        sign 192 128 128, 128 128 64, 0 64 64
        fence 64 64 128
        car 64 0 128, 64 128 192, 192 128 192, 192 64 128, 128 64 64
        pedestrian 64 64 0, 192 128 64, 64 0 192, 64 128 64
        bicyclist 0 128 192, 192 0 192
        void 0 0 0
    """
    groups = {
        name: [[*map(int, one.split())] for one in colours.split(',')]
        for name, _, colours in (
            line.strip().partition(' ') for line in groups.split('\n')[1:-1]
        )
    }
    colours = [one for group in groups.values() for one in group]
    assert len(colours) == 32
    expected = [
        255 if name == 'void' else number
        for number, (name, group) in enumerate(groups.items())
        for _ in group
    ]
    save(tmp_path / 'rgb/a.png', np.array([colours], np.uint8))
    argv = [str(tmp_path / 'rgb'), str(tmp_path / 'out'), '--table']
    results = converted(tool, [*argv, str(CAMVID)])
    assert results['a.png'].tolist() == [expected]
    classes = read_classes(str(tmp_path / 'classes.txt'))
    assert classes.names == tuple(groups)[:-1]
    assert classes.palette == [group[0] for group in groups.values()][:-1]


@pytest.mark.fault(
    'colours in a mask that the table has not',
    'refused, with counts and the nearest class',
)
def test_unknown_colours_are_an_error(tool, argv, tmp_path, capsys):
    pixels = picture(1)
    pixels[0, :3] = 128, 64, 129
    pixels[1, 0] = 1, 0, 0
    source = tmp_path / 'rgb/sub/b_L.png'
    save(source, pixels)
    message = fails(tool, capsys, argv)
    assert f'{source}: colours that are not in {argv[3]}' in message
    assert '(128, 64, 129): 3 px, nearest (128, 64, 128) road' in message
    assert '(1, 0, 0): 1 px, nearest (0, 0, 0) Void' in message
    assert '1 masks before it were written' in message
    assert not Path(argv[1], 'sub').exists()
    assert not Path(argv[1]).with_name('classes.txt').exists()
    results = converted(tool, argv, '--unknown', 'ignore')
    numbers = {**NUMBERS, (128, 64, 129): 255, (1, 0, 0): 255}
    assert np.array_equal(results['sub/b_L.png'], by_hand(pixels, numbers))
    assert '2 colours that are not in' in (printed := capsys.readouterr().out)
    assert '4 px:\n  (128, 64, 129): 3 px' in printed


def test_other_files_are_refused(tool, argv, tmp_path, capsys):
    path = tmp_path / 'rgb/sub/b_L.png'
    path.write_bytes(path.read_bytes()[:-1])
    assert f'{path}: not a mask of colours: ' in fails(tool, capsys, argv)
    assert not Path(argv[1], 'sub').exists()
    path = tmp_path / 'rgb/z.jpg'
    save(path, picture())
    argv[1] = str(tmp_path / 'other')
    assert f'{path}: a JPEG' in fails(tool, capsys, argv)
    assert not Path(argv[1]).exists()


@pytest.mark.parametrize(
    ('lines', 'options', 'message'),
    [
        (
            ['128 64 128 tree'],
            *([], "line 8: (128, 64, 128) is 'tree' here and 'road'"),
        ),
        (['tree 1 2'], [], "line 8: 'tree 1 2'; expected"),
        (['1 2 3 4'], [], 'a name that is no number'),
        (['1 2 256 tree'], [], '0 to 255, got [1, 2, 256]'),
        (['1 2 3 caf\xe9'], [], 'not a text file'),
        ([f'1 0 {i} n{i}' for i in range(252)], [], '255 classes, ['),
        ([], ['--classes', 'road,tree'], "no colour of the classes ['tree']"),
    ],
)
def test_tables_and_classes_that_make_no_sense(
    tool, argv, capsys, lines, options, message
):
    Path(argv[3]).write_text(TABLE + '\n'.join(lines), encoding='latin-1')
    assert message in fails(tool, capsys, argv, *options)
    assert not Path(argv[1]).exists()


def test_other_classes_are_not_replaced(tool, argv, capsys):
    file = Path(argv[1]).with_name('classes.txt')
    converted(tool, argv)
    file.write_text('road\nside walk\nlane\n')
    converted(tool, argv)
    assert file.read_text() == 'road\nside walk\nlane\n'
    file.write_text('side walk\nroad\n')
    assert f'{file} has the classes' in fails(tool, capsys, argv)
    assert file.read_text() == 'side walk\nroad\n'


def test_folders_that_make_no_sense(tool, argv, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    for masks, out, options, message in (
        ('rgb', 'rgb/sub/out', [], 'is in '),
        ('rgb', 'rgb', [], 'is in '),
        ('rgb', 'new', ['--strip-suffix', '_X'], 'a_L.png: expected a name'),
        ('none', 'new', [], 'No such file'),
        ('empty', 'new', [], 'no masks'),
    ):
        argv[:2] = str(tmp_path / masks), str(tmp_path / out)
        assert message in fails(tool, capsys, argv, *options)
    save(tmp_path / 'rgb/a_L.PNG', picture())
    argv[:2] = str(tmp_path / 'rgb'), str(tmp_path / 'new')
    assert 'would both become' in fails(tool, capsys, argv)


@pytest.mark.fault(
    'a kill while colour masks are converted',
    'files are whole; the same command goes on',
)
def test_a_kill_leaves_whole_files(tool, argv, tmp_path):
    for number in range(4):
        save(tmp_path / f'rgb/{number}_L.png', picture(number))
    pid = os.fork()
    if pid == 0:
        replaced = []

        def replace(part, path):
            replaced.append(path)
            if len(replaced) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            os.rename(part, path)

        os.replace = replace
        try:
            tool.main(argv)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    out = Path(argv[1])
    left = sorted(path.name for path in out.iterdir())
    assert left[0].endswith('.part')
    assert left[1:] == ['0_L.png', '1_L.png']
    assert len(results := converted(tool, argv)) == 6
    assert np.array_equal(results['2_L.png'], by_hand(picture(2)))
