"""Problems to train on: the user's own tables, published sets in the layout they are published in, planted teachers."""

from kronsgd.datasets.davis import load_davis
from kronsgd.datasets.files import UnknownNameError
from kronsgd.datasets.problem import Problem
from kronsgd.datasets.published import SentencePairs, load_digits, load_mnist, load_sick
from kronsgd.datasets.tables import Pairs, PairTable, read_pairs, read_table
from kronsgd.datasets.teachers import KronTeacher, make_kron_teacher

__all__ = [
    "KronTeacher", "PairTable", "Pairs", "Problem", "SentencePairs", "UnknownNameError", "load_davis", "load_digits",
    "load_mnist", "load_sick", "make_kron_teacher", "read_pairs", "read_table",
]  # fmt: skip
