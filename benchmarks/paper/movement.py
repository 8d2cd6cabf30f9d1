"""How the fired sets move while the network trains: who fires, who fires anew, who has fired all along.

    python -m benchmarks.run paper.movement
"""

from __future__ import annotations

from typing import Any

from benchmarks.common import plot, report
from benchmarks.paper.sets import Run, digits
from kronsgd.network import auto_threshold
from kronsgd.parallel import threads

EPOCHS = (1, 2, 3, 5, 10, 20)
SCALES = (1.0, 0.1)  # γ: the paper's, and the library's default
COLUMNS = ("fire %", "of them, not an epoch ago %", "of the first ones, at every look since %")


def follow(scale: float) -> list[dict[str, Any]]:
    """Fired sets after every epoch; the table keeps some."""
    data = digits()
    run = Run(data, auto_threshold(data.n_hidden), scale)
    start = last = always = run.fired()
    rows = [{"γ": scale, "after epoch": 0, **dict(zip(COLUMNS, (100 * float(start.mean()), "", 100.0), strict=True))}]
    for epoch in range(max(EPOCHS)):
        run.train(epoch, epoch + 1)
        now = run.fired()
        always = always & now
        shares = now.mean(), (now & ~last).sum() / now.sum(), always.sum() / start.sum()
        if epoch + 1 in EPOCHS:
            percent = (100 * float(share) for share in shares)
            rows.append({"γ": scale, "after epoch": epoch + 1, **dict(zip(COLUMNS, percent, strict=True))})
        last = now
    rows[-1]["test accuracy"] = run.score()
    return rows


def main() -> None:
    """Both output scales."""
    with threads():
        rows = [row for scale in SCALES for row in follow(scale)]
    for row in rows:
        row.setdefault("test accuracy", "")
    plot("paper.movement", lambda axes: _draw(axes, rows))
    report("paper.movement", "Fired sets settle, but they do not stay those of the start",
           rows,
           "Digits x ⊗ x, 1,437 rows, m = 1,024, b = √(0.4 ln m) = 1.67, softmax, batches of 64, constant automatic step; "
           "looked at after every epoch. The paper's bound on firing, m^(−1/5), is 25 %: it is one for the start.")  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    for k, name in enumerate(COLUMNS):
        for scale, style in zip(SCALES, ("o-", "s--"), strict=True):
            of = [row for row in rows if row["γ"] == scale and row[name] != ""]
            axes.plot([row["after epoch"] for row in of], [row[name] for row in of], style, color=f"C{k}",
                      label=f"{name.removesuffix(' %')}, γ = {scale:g}")  # fmt: skip
    axes.set(yscale="log", xlabel="epochs", ylabel="%")
    axes.legend(fontsize=6)
