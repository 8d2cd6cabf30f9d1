"""`kronsgd train`."""

from __future__ import annotations

from kronsgd.cli.config import build_config
from kronsgd.cli.flags import Flags, merge, read_toml
from kronsgd.cli.options import (
    BatchSize,
    CheckpointEvery,
    Column,
    ConfigFile,
    DataFolder,
    Dataset,
    Expression,
    Folds,
    Force,
    Groups,
    Hidden,
    LoaderOption,
    MemoryLimit,
    Out,
    PairsFile,
    Parameter,
    Quiet,
    Resume,
    SearchList,
    Seeds,
    TableFile,
    Target,
    Task,
    TestFile,
    TestFraction,
    TestSetting,
    Weight,
)
from kronsgd.cli.training import run_training

__all__ = ["train"]


def train(
    out: Out, config: ConfigFile = None, force: Force = False, quiet: Quiet = False,
    dataset: Dataset = None, data: DataFolder = None, option: LoaderOption = None, task: Task = None,
    table: TableFile = None, pairs: PairsFile = None, target: Target = None, weight: Weight = None,
    column: Column = None, test: TestFile = None, test_fraction: TestFraction = None,
    features: Expression = None, set_: Parameter = None, search: SearchList = None, folds: Folds = None,
    seeds: Seeds = None, n_hidden: Hidden = None, batch_size: BatchSize = None, memory_limit: MemoryLimit = None,
    test_setting: TestSetting = None, groups: Groups = None, checkpoint_every: CheckpointEvery = None, resume: Resume = False,
) -> None:  # fmt: skip
    """Train on a published set or on your own tables, and write a run folder.

    Example: kronsgd train --dataset digits --test-fraction 0.2 --n-hidden 512 --out runs/digits

    Example: kronsgd train --table drug=drugs.npz --table protein=proteins.npz:kernel --pairs pairs.csv --out runs/own
    """
    flags = Flags(
        dataset, data, option or [], task, table or [], pairs, target, weight, column or [], features, test,
        test_fraction, set_ or [], search or [], folds, seeds, n_hidden, batch_size, memory_limit,
        test_setting, groups, checkpoint_every, resume,
    )  # fmt: skip
    run_training(build_config(merge(read_toml(config), flags)), out, force=force, quiet=quiet)
