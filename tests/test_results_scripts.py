"""The scripts behind docs/results, at toy size."""

import json
import subprocess
import sys

from conftest import ROOT, run_environment


def run_copy(script, tmp_path, *arguments):
    """Run a copy of the script, since it writes its table beside itself."""
    copy = tmp_path / script
    copy.write_text((ROOT / "docs" / "results" / script).read_text())
    command = [sys.executable, str(copy), *arguments]
    return subprocess.run(
        command, cwd=tmp_path, env=run_environment(), capture_output=True, text=True, check=False
    )


def test_cifar10_script_searches_looks_up_and_continues(tmp_path):
    import itertools

    import search_spaces

    space = search_spaces.get("nasbench201")
    cells = itertools.product(space.operations, repeat=6)
    rows = [f"{i},{space.format(space.genotype(c))},{i / 200},1,2" for i, c in enumerate(cells)]
    header = "index,arch,cifar10,cifar100,imagenet16-120"
    (tmp_path / "table.csv").write_text("\n".join([header, *rows]))
    small = ["--epochs", "1", "--channels", "4", "--cells", "1", "--train-limit", "160", "--no-tensorboard"]
    arguments = ["--dataset", "digits", "--table", "table.csv", "--seeds", "1", "--out", "r"]
    arguments += ["--methods", "reinmax", "--", *small]
    for _ in range(2):  # the second time nothing is left to do
        done = run_copy("cifar10.py", tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert "| reinmax | 0 | 1 |" in (tmp_path / "cifar10.md").read_text()
    result = json.loads((tmp_path / "r" / "reinmax-s0" / "result.json").read_text())
    index = next(i for i, row in enumerate(rows) if result["genotype"] in row)
    assert f"| {index / 200:.2f} | 1.00 | 2.00 |" in (tmp_path / "cifar10.md").read_text()
    assert result["peak_memory_bytes"] > 1e6
