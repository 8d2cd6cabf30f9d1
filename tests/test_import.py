"""What an import loads, and that compiled kernels are found again by the next process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

OPTIONAL = ["torch", "matplotlib", "typer", "rich", "pyarrow", "pydantic"]
DEPENDENCIES = "numpy, scipy.sparse, scipy.linalg, numba, sklearn.base, sklearn.preprocessing, safetensors, tqdm.auto"


def run(code, **environment):
    """Standard output of `code` in a fresh process, as JSON."""
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_import_loads_no_optional_package():
    """Beyond what the dependencies load themselves: scikit-learn imports some of these where they are installed."""
    loaded = run(f"""
import json, sys
import {DEPENDENCIES}
before = set(sys.modules)
import kronsgd
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(new)))
""")
    assert "kronsgd" in loaded
    assert not set(loaded) & set(OPTIONAL), loaded


def test_library_works_without_optional_packages():
    """Every optional package made impossible to import, a model can be fitted, saved and loaded."""
    result = run(f"""
import json, sys, tempfile, pathlib
blocked = {OPTIONAL!r} + ["pandas"]
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
import numpy as np
import kronsgd
x = np.random.default_rng(0).normal(size=(20, 3))
model = kronsgd.KronRegressor(8, engine="dense", max_iter=1, learning_rate_init=1.0, n_jobs=1).fit(x, x[:, 0])
with tempfile.TemporaryDirectory() as folder:
    model.save(pathlib.Path(folder) / "m")
    same = bool((kronsgd.load(pathlib.Path(folder) / "m").predict(x) == model.predict(x)).all())
print(json.dumps([same, sorted(set(blocked) & set(sys.modules))]))
""")
    assert result == [True, []]


def test_torch_engine_says_what_to_install(monkeypatch):
    """Before anything is made of the rows."""
    import kronsgd

    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    x = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(ModuleNotFoundError, match=r'run pip install "kronsgd\[torch\]", or use engine="scan"\.$'):
        kronsgd.KronRegressor(8, engine="torch").fit(x, x[:, 0])
    assert kronsgd.plan(x, 8).engine is not None


def test_public_names():
    import kronsgd

    for name in kronsgd.__all__:
        assert getattr(kronsgd, name) is not None
    assert Path(kronsgd.__file__).with_name("testing.py").is_file()


COUNT_CACHE = """
import json
import numpy as np
import kronsgd
from kronsgd.kernels import panels, products, scan
rng = np.random.default_rng(0)
a, b = kronsgd.Dense(rng.normal(size=(20, 3))), kronsgd.Dense(rng.normal(size=(20, 2)))
i = rng.permutation(20)
features, y = a * b[i] + b, rng.normal(size=20)
for size in (10, 20):  # batches of both widths
    model = kronsgd.KronRegressor(
        8, engine="scan", max_iter=1, learning_rate_init=1.0, n_jobs=1, batch_size=size, train_output=True,
        random_state=0,  # what is compiled depends on how many pairs fire
    ).fit(features, y)
kronsgd.KronRegressor(8, engine="scan", max_iter=1, random_state=0).fit(a * b[i], y)
model.state_.coefficients.compact()
counts = {}
for module in (panels, products, scan):
    for name, value in vars(module).items():
        if name.startswith("_") and name.islower():
            continue  # a helper, kept with the kernels that call it
        for key, kernel in (value.items() if isinstance(value, dict) else [("", value)]):
            if hasattr(kernel, "stats") and hasattr(kernel, "signatures"):
                hits, misses = kernel.stats.cache_hits, kernel.stats.cache_misses
                counts[f"{name} {key}"] = [sum(hits.values()), sum(misses.values()), len(kernel.signatures)]
print(json.dumps(counts))
"""


def test_second_process_compiles_nothing(tmp_path):
    first, second = (run(COUNT_CACHE, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    used = {name for name, (_, _, signatures) in first.items() if signatures}
    for name in ("set_rows ", "multiply_rows ", "add_rows ", "power_scale ", "panel_tiles ", "compact "):
        assert name in used
    assert len(used) >= 11
    for name in used:
        assert first[name][0] == 0, f"{name}: found in an empty cache"
        assert first[name][1] > 0, f"{name}: compiled but not kept"
        hits, misses, _ = second[name]
        assert hits > 0, f"{name}: not found by the second process"
        assert misses == 0, f"{name}: compiled again by the second process"
