"""Problems to train on: the user's own tables, published sets in the layout they are published in, planted teachers."""

from kronsgd.datasets.davis import load_davis
from kronsgd.datasets.files import UnknownNameError
from kronsgd.datasets.movielens import Ratings, load_movielens
from kronsgd.datasets.problem import Problem
from kronsgd.datasets.published import SentencePairs, load_digits, load_mnist, load_sick
from kronsgd.datasets.tables import Pairs, PairTable, read_pairs, read_table
from kronsgd.datasets.teachers import KronTeacher, make_kron_teacher
from kronsgd.datasets.text import SentenceSpace

__all__ = [
    "KronTeacher", "PairTable", "Pairs", "Problem", "Ratings", "SentencePairs", "SentenceSpace", "UnknownNameError",
    "load_davis", "load_digits", "load_mnist", "load_movielens", "load_sick", "make_kron_teacher", "read_pairs", "read_table",
]  # fmt: skip
