"""What a run is made of: the sections of the TOML file, checked key by key."""

from __future__ import annotations

import keyword
import re
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kronsgd.cli.expression import default_expression, used_names
from kronsgd.cli.parameters import typed
from kronsgd.validation import check_choice, did_you_mean

__all__ = [
    "LOADER_OPTIONS", "Config", "DataSection", "PairsSection", "TableSection", "build_config", "check_section",
]  # fmt: skip

S = TypeVar("S", bound=BaseModel)
DatasetName = Literal["digits", "davis", "mnist", "sick"]
Kind = Literal["dense", "sparse", "onehot", "kernel", "rbf", "tanimoto", "spectrum", "categories", "patches", "bag"]
Task = Literal["regression", "classification"]
DATASETS: dict[str, list[str]] = {
    "digits": ["x"], "mnist": ["x"], "davis": ["drug", "protein"], "sick": ["first", "second"],
}  # fmt: skip
LOADER_OPTIONS: dict[str, list[str]] = {
    "digits": ["center"], "mnist": ["n_train", "center"], "sick": ["target"],
    "davis": ["drug_power", "protein_power", "drugs", "fingerprints", "names", "split"],
}  # fmt: skip
KIND_OPTIONS: dict[str, list[str]] = {
    "dense": ["normalize", "center", "scale"], "sparse": ["normalize"], "onehot": ["n_categories"],
    "kernel": ["normalize", "psd"], "rbf": ["gamma"], "tanimoto": [], "categories": [],
    "spectrum": ["k", "analyzer", "lowercase", "binary", "sublinear", "idf", "min_df", "max_pieces"],
    "patches": ["size", "stride", "n_filters", "n_places", "beta", "blur", "center", "n_components", "whiten", "seed"],
    "bag": ["normalize"],
}  # fmt: skip


class Section(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class DataSection(Section):
    """A published set with its loader's options, or just the task of the user's own tables."""

    dataset: DatasetName | None = None
    path: str | None = None
    task: Task | None = None
    drug_power: float | None = None
    protein_power: float | None = None
    drugs: Literal["similarity", "morgan"] | None = None
    fingerprints: float | None = None
    names: float | None = None
    split: Literal["setting1", "drugs", "proteins", "both"] | None = None
    n_train: int | None = None
    center: bool | None = None
    target: Literal["relatedness", "entailment"] | None = None

    def options(self) -> dict[str, Any]:
        """The loader's options that are set. ValueError on one that this set's loader does not have."""
        given = self.model_dump(exclude={"dataset", "path", "task"}, exclude_none=True)
        allowed = LOADER_OPTIONS[self.dataset] if self.dataset else []
        wrong = next((name for name in given if name not in allowed), None)
        if wrong is not None:
            whose = f'dataset="{self.dataset}"' if self.dataset else "your own tables"
            raise ValueError(f"{wrong} is no option of {whose}; its options are {allowed}.")
        return given


class TableSection(Section):
    """A table of entities: its file, the kind of its features, and that kind's options."""

    file: str
    kind: Kind = "dense"
    ids: str | None = None
    normalize: bool | None = None
    center: bool | None = None
    scale: bool | None = None
    psd: Literal["check", "clip"] | None = None
    gamma: float | None = None
    n_categories: int | None = None
    k: int | tuple[int, int] | None = None
    analyzer: Literal["char", "char_wb", "word"] | None = None
    lowercase: bool | None = None
    binary: bool | None = None
    sublinear: bool | None = None
    idf: bool | None = None
    min_df: int | None = None
    max_pieces: int | None = None
    size: int | None = None
    stride: int | None = None
    n_filters: int | None = None
    n_places: int | None = None
    beta: float | None = None
    blur: float | None = None
    n_components: int | None = None
    whiten: float | None = None
    seed: int | None = None

    def options(self) -> dict[str, Any]:
        """The leaf's options that are set. ValueError on one that this kind does not have."""
        given = self.model_dump(exclude={"file", "kind", "ids"}, exclude_none=True)
        wrong = next((name for name in given if name not in KIND_OPTIONS[self.kind]), None)
        if wrong is not None:
            raise ValueError(
                f'{wrong} is no option of a table of kind="{self.kind}"; its options are {KIND_OPTIONS[self.kind]}.'
            )
        return given


class PairsSection(Section):
    """The table of pairs: its file, and the columns of the target, the weights and each table's ids.

    groups: the table whose entities are the groups of loss="ranking", such as "drug".
    """

    file: str
    target: str = "y"
    weight: str | None = None
    groups: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)


class FeaturesSection(Section):
    """The feature expression."""

    expression: str | None = None


class ValidationSection(Section):
    """Rows that are evaluated after training: a file of pairs, or a part of the rows drawn at random.

    setting: what is new in the part that is drawn, and in the folds of a search: "pairs" only, "new TABLE", or "both new". The
    fraction is then one of that table's entities, or of both tables'.
    """

    file: str | None = None
    fraction: float | None = Field(default=None, gt=0, lt=1)
    setting: str | None = None


class EnsembleSection(Section):
    """How many networks are trained, each from its own seed."""

    seeds: int = Field(default=1, ge=1, le=1000)


class CheckpointSection(Section):
    """How often the run saves what it has, such as "10 min" or "500 steps", and whether it goes on from what is there."""

    every: str | None = None
    resume: bool = False


class Config(Section):
    """A whole run."""

    data: DataSection = Field(default_factory=DataSection)
    tables: dict[str, TableSection] = Field(default_factory=dict)
    pairs: PairsSection | None = None
    features: FeaturesSection = Field(default_factory=FeaturesSection)
    validation: ValidationSection = Field(default_factory=ValidationSection)
    model: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, Any] = Field(default_factory=dict)
    ensemble: EnsembleSection = Field(default_factory=EnsembleSection)
    checkpoint: CheckpointSection = Field(default_factory=CheckpointSection)

    @property
    def names(self) -> list[str]:
        """Names that the feature expression may use."""
        return DATASETS[self.data.dataset] if self.data.dataset else list(self.tables)

    @property
    def expression(self) -> str:
        """The feature expression, by default with all interactions."""
        given = self.features.expression
        if given is not None:
            return given
        return " * ".join(self.names) if self.data.dataset in ("davis", "sick") else default_expression(self.names)

    @property
    def used(self) -> list[str]:
        """The tables that the expression uses."""
        return used_names(self.expression, self.names)

    def resolved(self) -> dict[str, Any]:
        """Everything but what is unset, as TOML holds it; the search and what was resumed are over and left out."""
        raw = self.model_dump(exclude_none=True, exclude={"search": True, "checkpoint": {"resume"}})
        raw["features"] = {"expression": self.expression}
        if self.validation.fraction is None:  # it was that of the search
            raw["validation"].pop("setting", None)
        raw["model"] = {name: value for name, value in self.model.items() if value is not None}
        return {name: section for name, section in raw.items() if section}


def build_config(raw: dict[str, Any]) -> Config:
    """A checked run, from what TOML and flags say. ValueError with one sentence on the first thing that is wrong."""
    config = check_section(Config, raw)
    _check_sources(config)
    config.data.options()
    for name, table in config.tables.items():
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"the table name {name!r} cannot stand in an expression; use letters, digits and _.")
        table.options()
    if config.pairs is not None:
        for name in config.pairs.columns:
            if name not in config.tables:
                hint = did_you_mean(name, config.tables)
                raise ValueError(f"columns names the table {name!r}; the tables are {list(config.tables)}.{hint}")
        if config.pairs.groups is not None:
            check_choice("groups in [pairs]", config.pairs.groups, config.used)
    used = config.used
    _check_setting(config)
    model = {name: typed(name, value) for name, value in config.model.items()}
    if model.get("random_state") is None:
        model["random_state"] = 0  # so that the run can be repeated
    tables = {name: table for name, table in config.tables.items() if name in used}
    return config.model_copy(update={"model": model, "tables": tables})


def _check_sources(config: Config) -> None:
    data, own = config.data, bool(config.tables or config.pairs)
    if data.dataset and own:
        raise ValueError(
            f'there is both dataset="{data.dataset}" and tables of your own; give --dataset with --data, or --table '
            "with "
            "--pairs."
        )
    if not data.dataset and not own:
        raise ValueError(
            f"there is nothing to train on; give --dataset with one of {list(get_args(DatasetName))}, or your own "
            "data with "
            "--table NAME=FILE:KIND and --pairs FILE."
        )
    if own and (config.pairs is None or not config.tables):
        missing = (
            "--pairs FILE ([pairs] in TOML)"
            if config.pairs is None
            else "--table NAME=FILE:KIND ([tables.NAME] in TOML)"
        )
        raise ValueError(f"your own data needs tables and pairs; give {missing} too.")
    if data.dataset not in (None, "digits") and not data.path:
        raise ValueError(f'dataset="{data.dataset}" is read from a folder; give it with --data FOLDER (path in TOML).')
    if (own or data.dataset == "digits") and data.path:
        raise ValueError(f"path={data.path!r} has no use here; it is the folder of the sets davis, mnist and sick.")
    if data.dataset and config.validation.file:
        raise ValueError("a file of test pairs goes with tables of your own; published sets have their own test rows.")
    if config.validation.file and config.validation.fraction:
        raise ValueError("there are both a file of test pairs and a fraction of the rows to test on; give one of them.")


def _check_setting(config: Config) -> None:
    setting, used = config.validation.setting, config.used
    if setting is None:
        return
    allowed = ["pairs", *(f"new {name}" for name in used), *(["both new"] if len(used) == 2 else [])]
    check_choice("setting in [validation]", setting, allowed)
    if config.data.dataset:
        raise ValueError("setting in [validation] goes with tables of your own; published sets have their own test rows.")


def check_section(kind: type[S], raw: Any) -> S:
    """`raw` as this section; ValueError with one sentence on its first mistake."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ValueError(_sentence(kind, error)) from None


def _sentence(kind: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    section = ".".join(place[:-1])
    where = f"in [{section}]" if section else "at the top"
    if first["type"] == "extra_forbidden":
        allowed = _keys_at(kind, place[:-1])
        return f"the key {place[-1]!r} {where} is not known; allowed are {allowed}.{did_you_mean(place[-1], allowed)}"
    if first["type"] == "missing":
        return f"the key {place[-1]!r} {where} is missing; give it a value."
    shown = "" if isinstance(first["input"], dict) else f"={first['input']!r}"
    reason = first["msg"][0].lower() + first["msg"][1:]
    expected = str(first["ctx"]["expected"]) if first["type"] == "literal_error" else ""
    hint = did_you_mean(str(first["input"]), re.findall("'([^']+)'", expected))
    return f"{place[-1]}{shown} {where} is not allowed: {reason}.{hint}"


def _keys_at(kind: type[BaseModel], place: list[str]) -> list[str]:
    """The keys of the section at `place`."""
    sections: dict[str, type[BaseModel]] = {
        "data": DataSection, "pairs": PairsSection, "features": FeaturesSection, "tables": TableSection,
        "validation": ValidationSection, "ensemble": EnsembleSection, "checkpoint": CheckpointSection,
    }  # fmt: skip
    owner: type[BaseModel] = sections.get(place[0], kind) if place else kind
    return list(owner.model_fields)
