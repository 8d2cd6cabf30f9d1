"""A run's way through predict, evaluate and inspect: round trips, new entities, and mistakes after training."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.cli import FILES, SMALL, call, column, mistake, rows_of, write_pairs
from kronsgd import Dense, KronRegressor
from kronsgd.cli.flags import split_flag
from kronsgd.metrics import aupr_score, concordance_index, per_entity, precision_at_k


def test_train_predict_evaluate(own):
    folder, flags = own
    out = call("train", *flags, "--test", folder / "test.csv", *SMALL, "--out", folder / "run")
    assert "24 training rows, 6 test rows" in out
    assert "(1 + drug) * (1 + protein)" in out
    assert "n_hidden=32" in out
    assert "concordance index" in out
    assert {p.name for p in (folder / "run").iterdir()} == FILES | {"predictions.csv"}
    call("predict", folder / "run", "--pairs", folder / "test.csv", "--out", folder / "p.csv")
    written = rows_of(folder / "run/predictions.csv")
    assert list(written[0]) == ["drug", "protein_id", "true", "prediction"]
    assert [row["drug"] for row in written] == ["D4", "D5", "D5", "D5", "D5", "D5"]
    np.testing.assert_array_equal(
        column(folder / "p.csv", "prediction"), column(folder / "run/predictions.csv", "prediction")
    )
    call("evaluate", folder / "run", "--pairs", folder / "test.csv", "--json", folder / "s.json")
    scores, metrics = json.loads((folder / "s.json").read_text()), json.loads((folder / "run/metrics.json").read_text())
    assert scores.pop("rows") == 6
    assert scores == metrics["test"]
    assert set(scores) == {"mse", "rmse", "mae", "r2", "pearson", "spearman", "concordance_index", "rm2", "ci_per_drug",
                           "ci_per_protein_id"}  # fmt: skip
    assert len((folder / "run/history.jsonl").read_text().splitlines()) == 2


def test_scores_of_each_entitys_partners(own, run):
    folder, _ = own
    shown = call("evaluate", run, "--pairs", folder / "pairs.csv", "--threshold", 3, "--k", 2, "--json", folder / "s.json")
    assert "concordance index, mean over each drug" in shown
    assert "NDCG at 2, mean over each protein_id" in shown
    scores = json.loads((folder / "s.json").read_text())
    call("predict", run, "--pairs", folder / "pairs.csv", "--out", folder / "p.csv")
    y, p = column(folder / "pairs.csv", "y"), column(folder / "p.csv", "prediction")
    drugs = [row["drug"] for row in rows_of(folder / "pairs.csv")]
    assert scores["ci_per_drug"] == pytest.approx(per_entity(concordance_index, y, p, drugs))
    assert scores["precision_at_2_per_drug"] == pytest.approx(precision_at_k(y > 3, p, drugs, 2))
    assert scores["aupr"] == pytest.approx(aupr_score(y, p, 3))
    assert "one side of threshold=99" in mistake("evaluate", run, "--pairs", folder / "pairs.csv", "--threshold", 99)


def test_the_run_folder_needs_no_other_file(own, run):
    folder, _ = own
    moved = run.rename(folder / "moved")
    for name in ("drugs.npz", "proteins.npz", "pairs.csv"):
        (folder / name).unlink()
    call("predict", moved / "model.kron", "--pairs", folder / "test.csv", "--out", folder / "p.csv")
    np.testing.assert_array_equal(
        column(folder / "p.csv", "prediction"), column(moved / "predictions.csv", "prediction")
    )


def test_new_entities(own, run):
    folder, _ = own
    known = np.load(folder / "drugs.npz")["features"]
    np.savez(folder / "new.npz", features=known[[2, 3]], ids=np.array(["N1", "D0"]))
    gram = np.load(folder / "proteins.npz")["features"]
    # kernel values with a known entity's own scale: the new entity is then that entity
    np.savez(folder / "cross.npz", features=gram[[1]], self_similarity=gram[[1], [1]], ids=np.array(["Q"]))
    pairs = write_pairs(folder / "q.csv", ["N1", "D0", "D2", "D3", "D2", "D2"], ["P1", "P1", "P1", "P1", "Q", "P0"])
    tables = ["--table", f"drug={folder / 'new.npz'}", "--table", f"protein={folder / 'cross.npz'}"]
    call("predict", run, "--pairs", pairs, *tables, "--out", folder / "p.csv")
    p = column(folder / "p.csv", "prediction")
    assert p[0] == pytest.approx(p[2])  # N1 has the features of D2
    assert p[1] == pytest.approx(p[3])  # D0 was replaced by the features of D3
    assert p[4] == pytest.approx(p[2])  # Q is P1
    assert p[5] != pytest.approx(p[2])
    np.save(folder / "numbered.npy", known[:2])
    pairs = write_pairs(folder / "r.csv", [1, 0], ["P1", "P1"])
    call("predict", run, "--pairs", pairs, "--table", f"drug={folder / 'numbered.npy'}", "--out", folder / "p.csv", "--force")
    assert len(rows_of(folder / "p.csv")) == 2


@pytest.mark.parametrize(
    ("kind", "features"),
    [
        ("sparse", np.eye(6, 9)), ("onehot", np.arange(6)), ("rbf,gamma=0.5", np.eye(6)), ("tanimoto", np.eye(6, 8)),
        ("dense,normalize=false", 2 * np.eye(6)), ("kernel,psd=clip", np.eye(6) + 0.1),
    ],
)  # fmt: skip
def test_every_kind_of_table_comes_back_from_the_folder(own, kind, features):
    folder, flags = own
    np.savez(folder / "t.npz", features=features, ids=np.array([f"D{k}" for k in range(6)]))
    own_flags = ["--table", f"drug={folder / 't.npz'}:{kind}", *flags[2:], "--features", "(drug + 1) ** 2 * protein"]
    call("train", *own_flags, *SMALL, "--test", folder / "test.csv", "--out", folder / "run", "-q")
    call("predict", folder / "run", "--pairs", folder / "test.csv", "--out", folder / "p.csv")
    np.testing.assert_array_equal(
        column(folder / "p.csv", "prediction"), column(folder / "run/predictions.csv", "prediction")
    )


def test_a_table_that_the_expression_does_not_use_is_not_needed_later(own):
    folder, flags = own
    call("train", *flags, "--features", "1 + drug", *SMALL, "--out", folder / "run", "-q")
    assert set(json.loads((folder / "run/tables.json").read_text())["tables"]) == {"drug"}
    call("predict", folder / "run", "--out", folder / "p.csv")  # one table: all its entities
    assert [row["drug"] for row in rows_of(folder / "p.csv")] == [f"D{k}" for k in range(6)]


def test_inspect_of_a_dense_model_without_a_run(tmp_path):
    rng = np.random.default_rng(0)
    KronRegressor(8, engine="dense", max_iter=0, random_state=0).fit(
        Dense(rng.normal(size=(20, 3))), rng.normal(size=20)
    ).save(tmp_path / "m.kron")
    shown = call("inspect", tmp_path / "m.kron")
    assert "24 weights" in shown
    assert "no epoch was finished" in shown
    assert "tables.json" in mistake("predict", tmp_path / "m.kron", "--out", tmp_path / "p.csv")


def test_mistakes_after_training(own, run):
    folder, _ = own
    pairs, out = folder / "test.csv", ["--out", folder / "p.csv"]
    bad = write_pairs(folder / "bad.csv", ["D0"], ["P99"])
    assert "P99" in mistake("predict", run, "--pairs", bad, *out)
    assert "does not exist" in mistake("predict", folder / "nothing", "--pairs", pairs, *out)
    assert "no tables.json" in mistake("predict", folder, "--pairs", pairs, *out)
    assert "--pairs FILE" in mistake("predict", run, *out)
    assert "cannot be written" in mistake("predict", run, "--pairs", pairs, "--out", folder / "no/p.csv")
    assert "Did you mean 'drug'?" in mistake("predict", run, "--table", "drg=x.npz", "--pairs", pairs, *out)
    assert "no column 'z'" in mistake("predict", run, "--column", "drug=z", "--pairs", pairs, *out)
    np.save(folder / "wide.npy", np.ones((2, 7)))
    assert "wide.npy" in mistake("predict", run, "--table", f"drug={folder / 'wide.npy'}", "--pairs", pairs, *out)
    assert "5 known" in mistake("predict", run, "--table", f"protein={folder / 'wide.npy'}", "--pairs", pairs, *out)
    assert "no column 'q'" in mistake("evaluate", run, "--pairs", pairs, "--target", "q")
    assert "text" in mistake("evaluate", run, "--pairs", pairs, "--target", "label")
    assert "give one of them" in mistake("evaluate", run, "--pairs", pairs, "--dataset", "davis")
    assert "give --pairs FILE too" in mistake("evaluate", run, "--target", "y")
    assert "no model" in mistake("inspect", folder)
    assert not (folder / "p.csv").exists()


def test_an_existing_file_is_replaced_only_when_forced(own, run):
    folder, _ = own
    out = folder / "p.csv"
    out.write_text("mine")
    assert "--force" in mistake("predict", run, "--pairs", folder / "test.csv", "--out", out)
    assert out.read_text() == "mine"
    call("predict", run, "--pairs", folder / "test.csv", "--out", out, "--force")
    assert len(rows_of(out)) == 6


def test_damaged_runs(own, run):
    folder, _ = own
    data = (run / "model.kron").read_bytes()
    (run / "model.kron").write_bytes(data[: len(data) // 2])
    assert "not a whole kronsgd model" in mistake("inspect", run)
    (run / "model.kron").write_bytes(data)
    (run / "tables/drug.npz").write_bytes(b"PK")
    assert "drug.npz" in mistake("evaluate", run, "--pairs", folder / "test.csv")
    (run / "tables.json").write_text('{"version": 3}')
    assert "tables.json is damaged" in mistake("evaluate", run, "--pairs", folder / "test.csv")


def test_ids_of_categories_are_found_by_the_name_of_the_pairs_column_or_the_runs_own(tmp_path):
    rows = "".join(f"S{k},{'rb'[k % 2]},{'nse'[k % 3]}\n" for k in range(8))
    pairs = "shop,y\n" + "".join(f"S{k % 8},{k % 8}\n" for k in range(24))
    (tmp_path / "pairs.csv").write_text(pairs)
    for header, kind in (("shop,colour,region", "categories"), ("key,colour,region", "categories,ids=key")):
        table, new, run = (tmp_path / f"{header[:4]}-{name}" for name in ("old.csv", "new.csv", "run"))
        table.write_text(f"{header}\n{rows}")
        new.write_text(f"{header}\nS90,b,e\n")
        run_flags = ["--pairs", tmp_path / "pairs.csv", "--set", "max_iter=1", "--n-hidden", "16", "--out", run, "-q"]
        call("train", "--table", f"shop={table}:{kind}", *run_flags)
        (tmp_path / "asked.csv").write_text("shop\nS90\nS3\n")
        out = tmp_path / f"{header[:4]}-out.csv"
        call("predict", run, "--pairs", tmp_path / "asked.csv", "--table", f"shop={new}", "--out", out)
        assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["shop", "S90", "S3"]


def test_the_form_of_an_entity_is_told_as_it_is_written():
    with pytest.raises(ValueError, match=r"TABLE=ID 'D5' is not of the form NAME=VALUE; write for example drug=D5\.$"):
        split_flag("TABLE=ID", "D5")
