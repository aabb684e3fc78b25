"""What mmseg has published, read from its metafiles."""

import pytest

from hmsa_mmseg.zoo import config_root
from hmsa_mmseg.zoo.metafile import published, read_metafile

# From docs/en/model_zoo.md and the READMEs of mmseg 1.2.2.
LITERAL = {
    'ocrnet_hr48_4xb2-160k_cityscapes-512x1024': (81.35, 82.70, None),
    'fcn_hr48_4xb2-160k_cityscapes-512x1024': (80.65, 81.92, None),
    'segformer_mit-b5_8xb1-160k_cityscapes-1024x1024': (82.25, 83.48, 18.0),
    'pidnet-l_2xb6-120k_1024x1024-cityscapes': (80.89, 82.37, 5.83),
}


@pytest.mark.parametrize(('name', 'figures'), LITERAL.items(), ids=LITERAL)
def test_published_figures(name, figures):
    found = published()[name]
    assert (found.miou, found.miou_ms_flip, found.memory_gb) == figures
    assert found.source == f'{_family(name)}/metafile.yaml'
    assert found.weights.endswith('.pth')
    assert found.extra_data == 'none'


def _family(name):
    (path,) = config_root().glob(f'*/{name}.py')
    return path.parent.name


def test_data_set_of_a_row_that_has_a_heading_in_its_place():
    path = config_root() / 'ocrnet' / 'metafile.yaml'
    assert "Dataset: '# HRNet backbone'" in path.read_text()
    rows = read_metafile(path)
    cityscapes = [n for n, row in rows.items() if row.dataset == 'Cityscapes']
    assert len(cityscapes) == 12
    assert all('cityscapes' in name for name in cityscapes)
    assert rows['ocrnet_hr48_4xb4-80k_ade20k-512x512'].dataset == 'ADE20K'


def test_larger_pretraining_is_extra_data():
    name = 'mask2former_swin-l-in22k-384x384-pre_8xb2-90k_cityscapes-512x1024'
    assert published()[name].extra_data == 'ImageNet-22k'


def test_no_metafile(tmp_path):
    path = tmp_path / 'metafile.yaml'
    path.write_text('- one\n- two\n')
    with pytest.raises(ValueError, match='expected a metafile'):
        read_metafile(path)
