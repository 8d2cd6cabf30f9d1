"""A training run from its settings to its folder."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tomli_w
import typer

from kronsgd import StopReason, __version__
from kronsgd.cli.config import Config
from kronsgd.cli.data import Data, load_data
from kronsgd.cli.errors import say
from kronsgd.cli.fitting import Fitted, committee, fit_seeds, mean_and_deviation, plain_warnings, score_parts
from kronsgd.cli.keeping import Keeping, digest_of, read_keeping
from kronsgd.cli.parameters import changed, defaults, make_model
from kronsgd.cli.plan import plan_problem
from kronsgd.cli.ranks import first_rank, from_first, on_any_rank, over_ranks, process_group, signals_deferred
from kronsgd.cli.report import console, facts, number, say_plain, score_table, show_table
from kronsgd.cli.runfolder import (
    CHECKPOINTS,
    check_target,
    check_writable,
    is_finished,
    staged,
    write_json,
    write_predictions,
    write_tables,
)
from kronsgd.cli.search import Result, Search, apply_setting, described, folds_of, read_search, run_search
from kronsgd.datasets import Problem
from kronsgd.estimators.planning import engine_over_ranks
from kronsgd.plotting import plot_confusion, plot_fired, plot_loss, plot_predictions

__all__ = ["run_training"]

LOSS_LABELS = {
    "squared": "loss (half squared error ÷ target variance)", "huber": "Huber loss", "ranking": "ranking loss (nats)",
    "classification": "log loss (nats)",
}  # fmt: skip


def run_training(config: Config, out: Path, *, force: bool, quiet: bool) -> None:
    """Search if asked for, train, evaluate, write `out`. Exits with 1 after divergence or out of memory, 143 at SIGTERM."""
    keeping, quiet = read_keeping(config, out), quiet or not first_rank()
    asked = digest_of(config)
    finished = first_rank() and _finished(config, out, asked, keeping, force=force, quiet=quiet)
    if finished and not over_ranks():
        return
    search = _search_of(config)
    with process_group(), plain_warnings():
        if from_first(finished):
            return
        found = None if search is None else _searched(config, search, keeping, quiet=quiet)
        config = config if found is None else apply_setting(config, found["best"])
        data = load_data(config)
        if not quiet:
            _announce(config, data)
        with signals_deferred() as come:
            fitted = fit_seeds(
                data, config.model, config.ensemble.seeds, bar=not quiet, keeping=keeping,
                stopped=lambda: on_any_rank(bool(come)),
            )  # fmt: skip
            cut_short = len(fitted) < config.ensemble.seeds or any(one.model.stop_reason_.cut_short for one in fitted)
            ended = cut_short and on_any_rank(signal.SIGTERM in come)
            if first_rank():
                metrics = _write(out, config, data, fitted, found, asked, keeping)
                if keeping is not None and not cut_short:
                    keeping.clear()
                if not quiet:
                    _conclude(config, fitted, metrics, out)
                if cut_short:
                    _say_why(ended, fitted, out, keeping)
            if ended:
                from_first(None)  # it has written: a launcher ends all processes once one of them has ended so
    if ended:
        raise typer.Exit(128 + signal.SIGTERM)
    if first_rank() and any(one.model.stop_reason_ in (StopReason.DIVERGED, StopReason.MEMORY) for one in fitted):
        raise typer.Exit(1)  # fit has already warned; the folder is there to look at


def _finished(config: Config, out: Path, asked: str, keeping: Keeping | None, *, force: bool, quiet: bool) -> bool:
    """Whether the run that is to go on is whole already. ValueError or OSError where none may be written to `out`."""
    if keeping is not None and keeping.resume:
        if force:
            raise ValueError("--resume goes on with a run and --force replaces it; give one of them.")
        if is_finished(out, asked):
            if not quiet:
                say_plain(f"the run in {out.resolve()} is finished; there is nothing to go on with.")
            return True
    _check_out(config, out, force, keeping)
    return False


def _search_of(config: Config) -> Search | None:
    """The search of a run, None where there is none; ValueError or ModuleNotFoundError for what would go wrong later."""
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError('the figures of a run need matplotlib; run pip install "kronsgd[plots]".')
    search = read_search(config)
    if config.validation.setting and config.validation.fraction is None and search is None:
        raise ValueError(
            f'setting="{config.validation.setting}" in [validation] says which rows are held out, but none are; give '
            "--test-fraction 0.2 (fraction in TOML), or something to search."
        )
    return search


def _check_out(config: Config, out: Path, force: bool, keeping: Keeping | None) -> None:
    """ValueError or OSError unless the run may be written to `out`; what --force replaces of checkpoints goes now."""
    resume = keeping is not None and keeping.resume
    check_target(out, force, resume)
    check_writable(out)
    if force and not resume:
        Keeping(out / CHECKPOINTS, None, None, False).clear()
    if keeping is not None and keeping.resume:
        first = config.model["random_state"]
        keeping.check_seeds(range(first, first + config.ensemble.seeds))


def _searched(config: Config, search: Search, keeping: Keeping | None, *, quiet: bool) -> dict[str, Any]:
    """What search.json holds: from the run that this one goes on from, or by searching."""
    found = from_first(None if keeping is None or not first_rank() else keeping.searched(config))
    if found is not None:
        if not quiet:
            say_plain(f"searched before: {found['best']}")
        return found
    found = _search(config, search, quiet=quiet)
    if keeping is not None and first_rank():
        keeping.keep_search(config, found)
    return found


def _search(config: Config, search: Search, *, quiet: bool) -> dict[str, Any]:
    from rich.progress import Progress

    first = apply_setting(config, search.settings[0])
    data = load_data(first)
    n_folds = len(folds_of(data, config.model["random_state"])[: search.folds])
    ranking = config.model.get("loss") == "ranking"
    score = "1 − concordance index" if ranking else "mean squared error"
    score = "log loss" if data.problem.task == "classification" else score
    with Progress(console=console(), transient=True, disable=quiet) as bar:
        label = f"searching {len(search.settings)} settings × {n_folds} folds"
        task = bar.add_task(label, total=n_folds * len(search.settings))
        results = run_search(config, search, lambda: bar.advance(task))
    best = min(results, key=lambda result: result.mean)
    if not quiet:
        _show_search(results, best, f"{score}, mean over held-out folds ({n_folds}; test rows not used)")
    return {
        "score": score, "n_folds": n_folds, "best": best.setting,
        "results": [{"setting": r.setting, "mean": r.mean, "folds": r.losses, "seconds": r.seconds} for r in results],
    }  # fmt: skip


def _show_search(results: list[Result], best: Result, title: str) -> None:
    rows = []
    for result in sorted(results, key=lambda result: result.mean):
        _, spread = mean_and_deviation(result.losses)
        mark = "← best" if result is best else ""
        rows.append(
            [
                described(result.setting),
                number(result.mean),
                number(spread) if len(result.losses) > 1 else "–",
                f"{result.seconds:.1f}",
                mark,
            ]
        )
    show_table(["setting", "mean", "± folds", "seconds", ""], rows, title)


def _announce(config: Config, data: Data) -> None:
    problem, params = data.problem, make_model(data.problem.task, config.model).get_params()
    n_test = 0 if problem.X_test is None else len(problem.X_test)
    facts({
        "data": f"{problem.name}: {len(problem.X):,} training rows, {n_test:,} test rows",
        **({"new in the test": data.setting} if data.setting else {}),
        "features": f"{config.expression} = {problem.X!r}",
        "engine": _engine(problem, config.model),
        "parameters": ", ".join(f"{k}={v}" for k, v in changed(params).items()) + " (others at their defaults)",
        **({"networks": f"{config.ensemble.seeds}, averaged"} if config.ensemble.seeds > 1 else {}),
    }, f"kronsgd {__version__}: {problem.task}")  # fmt: skip


def _engine(problem: Problem, params: dict[str, Any]) -> str:
    if over_ranks():
        return f"{engine_over_ranks(make_model(problem.task, params))}, neurons over {os.environ['WORLD_SIZE']} processes"
    engine = plan_problem(problem, params).engine
    return f"{engine} (kronsgd plan says why)" if engine else "none fits into memory"


def _metrics(data: Data, fitted: list[Fitted]) -> dict[str, Any]:
    """Scores of the averaged networks by part, of each network, and their mean and deviation over seeds."""
    singles = [one.scores(data) for one in fitted]
    whole: dict[str, Any] = dict(score_parts(data, *committee(fitted)))
    seeds = [
        {"seed": one.model.random_state, "seconds": one.seconds, "epochs": one.model.n_iter_,
         "stop_reason": one.model.stop_reason_.name, "engine": one.model.engine_, **single}
        for one, single in zip(fitted, singles, strict=True)
    ]  # fmt: skip
    whole |= {"seconds": sum(one.seconds for one in fitted), "written": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    if len(fitted) > 1:
        for part in [name for name in ("train", "test") if name in whole]:
            pairs = {k: mean_and_deviation([single[part][k] for single in singles]) for k in whole[part]}
            whole[f"{part}_single_seed"] = {k: {"mean": mean, "std": std} for k, (mean, std) in pairs.items()}
    return {**whole, "seeds": seeds}


def _write(
    out: Path, config: Config, data: Data, fitted: list[Fitted], found: dict[str, Any] | None, asked: str,
    keeping: Keeping | None,
) -> dict[str, Any]:  # fmt: skip
    """Write the run's folder, whole or not at all; returns the scores. OSError where it cannot. found: by a search."""
    metrics = _metrics(data, fitted)

    def write(target: Path) -> None:
        with staged(target) as folder:
            if found is not None:
                write_json(folder / "search.json", found)
            _write_files(folder, config, data, fitted, metrics, asked)

    try:
        write(out)
    except OSError as error:
        going_on = _written_elsewhere(write, out.resolve().name) if keeping is None else "make room, and go on with --resume"
        raise OSError(f"the run could not be written to {out} ({error.strerror or error}); {going_on}.") from error
    return metrics


def _written_elsewhere(write: Callable[[Path], None], name: str) -> str:
    """Save what was trained from a full disk, where the system's temporary folder takes it; what to do now."""
    try:
        spare = Path(tempfile.mkdtemp(prefix="kronsgd-")) / name
        write(spare)
        return f"it is in {spare} instead: move it from there"
    except OSError:
        return "nor does the temporary folder take it: make room, and train again with --checkpoint-every, which loses less"


def _write_files(
    folder: Path, config: Config, data: Data, fitted: list[Fitted], metrics: dict[str, Any], asked: str
) -> None:
    problem, names = data.problem, ["model.kron", *(f"model-{k}.kron" for k in range(2, len(fitted) + 1))]
    for name, one in zip(names, fitted, strict=True):
        one.model.save(folder / name)
    whole = {"data": {}, **config.resolved()}  # this order, so that a repeated run writes the same file
    whole["data"] = {**whole["data"], "task": problem.task}
    whole["model"] = {k: v for k, v in {**defaults(problem.task), **config.model}.items() if v is not None}
    note = f"# Written by kronsgd {__version__}; kronsgd train config.toml --out FOLDER repeats the run.\n"
    (folder / "config.toml").write_text(note + tomli_w.dumps(whole), encoding="utf-8")
    lines = [json.dumps({"seed": one.model.random_state, **record}) for one in fitted for record in one.model.history_]
    (folder / "history.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    write_json(folder / "metrics.json", metrics)
    write_tables(
        folder, data.tables, expression=config.expression, task=problem.task, target=data.target, models=names, asked=asked
    )  # fmt: skip
    train, test = committee(fitted)
    if test is not None:
        write_predictions(folder / "predictions.csv", data.test_ids, test, problem.y_test)
    loss = getattr(fitted[0].model, "loss", "classification")
    plot_loss(fitted[0].model.history_, folder / "loss.png", loss=LOSS_LABELS[loss])
    plot_fired(fitted[0].model.history_, folder / "fired.png")
    y, shown, part = problem.y, train, "training rows"
    if test is not None and problem.y_test is not None:
        y, shown, part = problem.y_test, test, "test rows"
    plot = plot_confusion if problem.task == "classification" else plot_predictions
    plot(y, shown.values, folder / "predictions.png", title=f"{problem.name}: {part}")


def _conclude(config: Config, fitted: list[Fitted], metrics: dict[str, Any], out: Path) -> None:
    columns = {}
    for part in [name for name in ("train", "test") if name in metrics]:
        single = metrics.get(f"{part}_single_seed")
        if single is not None:
            columns[f"{part}, one seed"] = {k: f"{number(v['mean'])} ± {v['std']:.1g}" for k, v in single.items()}
            part_name = f"{part}, averaged"
        else:
            part_name = part
        columns[part_name] = {k: number(v) for k, v in metrics[part].items()}
    score_table(columns, f"Scores after {metrics['seconds']:.1f} s of training")
    reason = fitted[-1].model.stop_reason_
    say_plain(f"training ended: {reason.value}")
    if "test" not in metrics:
        flag = "--test-fraction 0.2" if config.data.dataset else "--test FILE or --test-fraction 0.2"
        say_plain(f"no test rows: give {flag} to see how well new rows are predicted.")
    say_plain(f"epochs trained: {fitted[-1].model.n_iter_} of at most {fitted[-1].model.max_iter_}")
    say_plain(f"written: {out.resolve()}")
    say_plain(f"pictures: {', '.join(str(path.resolve()) for path in sorted(out.glob('*.png')))}")


def _say_why(ended: bool, fitted: list[Fitted], out: Path, keeping: Keeping | None) -> None:
    """One sentence on a run that was cut short, by SIGTERM, by too little memory or by Ctrl-C."""
    full = not ended and any(one.model.stop_reason_ is StopReason.MEMORY for one in fitted)
    why = "ended by SIGTERM" if ended else "ended by memory_limit" if full else "interrupted"
    going_on = "" if keeping is None else f" Go on with --resume{' and more memory' if full else ''}."
    say("warning", f"training was {why}; the model so far was kept in {out}.{going_on}")
