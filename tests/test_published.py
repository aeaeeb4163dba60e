"""Recipes of published methods beside what was published."""

import re
import subprocess
from pathlib import Path

from recipes import presets
from studies import published

ROOT = Path(__file__).resolve().parent.parent


def test_what_has_ended_is_in_the_table(tmp_path):
    folder = tmp_path / "nasbench201-drnas"
    folder.mkdir()
    (folder / "results.csv").write_text("method,seed,accuracy\ndirichlet,0,94.36\ndirichlet,1,93.36\n")
    (tmp_path / "nasbench201-gdas").mkdir()  # which has not ended
    *_, row = published.lines(tmp_path)
    assert row == f"| nasbench201-drnas | 93.86 ± 0.71 | 2 | {presets.published('nasbench201-drnas')} |"
    assert len(published.lines(tmp_path)) == 3


def test_the_script_names_presets_and_is_sound():
    script = ROOT / "docs" / "results" / "published.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    (names,) = re.findall(r"presets=\((.*?)\)", script.read_text(), re.DOTALL)
    assert {f"nasbench201-{name}" for name in names.split()} <= presets.SEARCH.keys()
