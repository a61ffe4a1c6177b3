"""The package as a whole: what it exports, what it costs to import, that scipy is a guest."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import auditor.stats
from auditor.errors import AuditorError

FOLDER = Path(auditor.stats.__file__).parent


def test_exports_are_sorted_unique_documented_and_real() -> None:
    names = auditor.stats.__all__
    assert names == sorted(set(names))
    for name in names:
        assert getattr(auditor.stats, name).__doc__


def test_every_public_function_and_class_is_exported() -> None:
    shared = {"mean_difference", "random_signs"}
    defined = {
        node.name
        for path in FOLDER.glob("[a-z]*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    assert defined - shared <= set(auditor.stats.__all__)


@pytest.mark.parametrize("module", ["scipy", "torch", "pandas", "statsmodels"])
def test_import_brings_numpy_alone(module: str) -> None:
    code = f"import auditor.stats, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=FOLDER.parents[1]).returncode == 0


def test_gates_and_conformal_calls_do_not_need_all_of_scipy() -> None:
    code = (
        "import sys; from auditor.stats import *; wilson(1, 9); conformal_p(1.0, [2.0]); holm([0.1]);"
        "robust_z([1.0, 2.0]); betting_e_process([1.0], 0.5); assert 'scipy' not in sys.modules;"
        "clopper_pearson(1, 9); certify_sample_size(0.01); sys.exit('scipy.stats' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=FOLDER.parents[1]).returncode == 0


def test_no_file_draws_from_a_hidden_generator_or_clock() -> None:
    for path in FOLDER.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for forbidden in ("np.random.seed", "default_rng()", "import random\n", "import time\n", "datetime"):
            assert forbidden not in text, f"{path.name} uses {forbidden}"


def test_errors_are_the_auditors_and_value_errors() -> None:
    assert issubclass(auditor.stats.StatisticsError, AuditorError)
    assert issubclass(auditor.stats.StatisticsError, ValueError)
