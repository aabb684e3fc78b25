"""A warning where a student is scored on images its teacher was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from mmseg.registry import HOOKS

from hmsa_mmseg.datasets import leaf_datasets

from .config_datasets import leaf_configs
from .teacher_record import Training, count_seen, labels_root, read_teacher
from .training_sets import list_images

#: Beside mIoU in the logs of train.py and in the result of test.py.
METRIC = 'teacher_saw_images'


@HOOKS.register_module()
class TeacherLeakageHook(Hook):
    """Count the evaluated images that were in a teacher's training set.

    What a student learns from a teacher's labels comes in part from the
    images that the teacher was trained on; its score on those is not one on
    unseen images. Before a validation or test its images are compared with
    those, by base name and size in bytes, see
    :func:`hmsa_mmseg.autolabel.teacher_record.count_seen`. A warning says how
    many were seen, once for each data set, and so does ``teacher_saw_images``
    among the metrics: null if it is not known, where a warning says why. A
    run is never stopped. Each process looks for itself; only the first logs.

    Args:
        folders (str | Sequence[str], optional): Of auto-labels, with
            ``autolabel_meta.json`` and ``teacher_images.txt``. Defaults to
            None: those that the training data have their labels from, unless
            ``saw`` is given.
        saw (Sequence[dict]): Data sets that the teacher is known to have been
            trained on, for labels that came without such files. Defaults to
            ().
    """

    # Before RuntimeInfoHook, which passes metrics on to the logs.
    priority = 'HIGHEST'

    def __init__(
        self,
        folders: str | Sequence[str] | None = None,
        saw: Sequence[dict] = (),
    ) -> None:
        self.folders = [folders] if isinstance(folders, str) else folders
        self.saw = [saw] if isinstance(saw, Mapping) else list(saw)
        self._found: dict[str, float | None] = {}

    def before_val(self, runner) -> None:
        """Look at the images of a validation, before the first one."""
        self._look(runner, 'val', runner.val_loop)

    def before_test(self, runner) -> None:
        """Look at the images of a test."""
        self._look(runner, 'test', runner.test_loop)

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Add what was found to the metrics."""
        self._add(metrics, 'val')

    def after_test_epoch(self, runner, metrics: dict | None = None) -> None:
        """Add what was found to the metrics."""
        self._add(metrics, 'test')

    def _add(self, metrics: dict | None, mode: str) -> None:
        if metrics is not None and mode in self._found:
            metrics[METRIC] = self._found[mode]

    def _look(self, runner, mode: str, loop: BaseLoop) -> None:
        if mode in self._found:
            return
        try:
            paths = {
                leaf.get_data_info(index)['img_path']
                for leaf in leaf_datasets(loop.dataloader.dataset)
                for index in range(len(leaf))
            }
            known = self._known(runner.cfg)
            problems = known.notes
            count = count_seen(paths, known.images)
        # Data sets can be of anything, and what is only about a warning must
        # not stop a run of days.
        except Exception as error:
            paths, count = [], 0
            problems = [f'{type(error).__name__}: {error}']
        # Not an integer: mmengine makes a numpy one of it, and LoggerHook
        # null of that.
        self._found[mode] = None if problems and not count else float(count)
        if runner.rank != 0:
            return
        if count:
            least = 'at least ' if problems else ''
            runner.logger.warning(
                f'{least}{count} of {len(paths)} images of the {mode} data '
                'were in the training set of the teacher whose labels this '
                'model was trained with: the score is not one on unseen images'
            )
        elif problems:
            runner.logger.warning(
                f'whether images of the {mode} data were in the training set '
                'of the teacher whose labels this model was trained with is '
                f'unknown: {"; ".join(problems)}'
            )
        else:
            runner.logger.info(
                f'none of {len(paths)} images of the {mode} data was in the '
                'training set of the teacher'
            )

    def _known(self, cfg: Mapping) -> Training:
        """List the images of the teacher, and what is not known of them."""
        known = Training()
        folders = self.folders
        if folders is None and not self.saw:
            dataset = (cfg.get('train_dataloader') or {}).get('dataset')
            roots = map(labels_root, leaf_configs(dataset) if dataset else ())
            folders = sorted({str(root) for root in roots if root is not None})
            if not folders:
                known.notes.append(
                    'no labels of train_dataloader have an '
                    'autolabel_meta.json; folders or saw of '
                    'TeacherLeakageHook can say what the teacher has seen'
                )
        for folder in folders or ():
            known.add(read_teacher(folder))
        for dataset in self.saw:
            for leaf in leaf_configs(dataset):
                found, problem = list_images(leaf)
                known.images += found or []
                if problem:
                    known.notes.append(
                        f'images of saw={leaf.get("type")} '
                        f'({leaf.get("data_root")}) are not listed: {problem}'
                    )
        return known
