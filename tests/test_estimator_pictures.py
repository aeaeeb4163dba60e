"""The pictures of docs/estimators.md."""

import pytest
import torch
from conftest import ROOT
from PIL import Image

import estimators
from ablation.objectives import draw_problems
from studies import estimator_pictures as pictures


def test_there_is_a_picture_and_a_section_of_every_estimator():
    text = (ROOT / "docs" / "estimators.md").read_text()
    for name in estimators.names():
        path = f"images/estimators/{name}.png"
        assert f"({path})" in text
        assert (ROOT / "docs" / path).stat().st_size < 40_000
        assert f"### `{name}`" in text


def test_the_command_draws_what_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MEASURED", 40)
    words = [
        "--out",
        str(tmp_path / "deep" / "p"),
        "--estimators",
        "reinforce_critic",
        "reinmax_beta:beta=0.1",
    ]
    assert pictures.main(words) == 0
    names = sorted(path.name for path in (tmp_path / "deep" / "p").iterdir())
    assert names == ["reinforce_critic.png", "reinmax_beta.png"]
    with Image.open(tmp_path / "deep" / "p" / names[0]) as image:
        assert image.size[0] > 2 * image.size[1] * 0.8


def test_an_unknown_estimator_is_one_line(tmp_path, capsys):
    assert pictures.main(["--out", str(tmp_path), "--estimators", "reinmx"]) == 2
    assert "did you mean reinmax" in capsys.readouterr().err


def test_a_cloud_lies_around_the_exact_gradient():
    """Of an unbiased estimator: the mean is the arrow's end, whose length is 1; the plane keeps lengths."""
    problems = draw_problems(pictures.SHOWN, 1, pictures.CHOICES, pictures.CANDIDATES, 3)
    cloud = pictures.clouds(estimators.get("reinforce_loo"), problems, 3)["network"]
    assert float(cloud.exact.norm()) == pytest.approx(1)
    assert (cloud.mean - cloud.exact).norm() < 5 * cloud.std / pictures.MEASURED**0.5
    assert torch.allclose(pictures._PLANE @ pictures._PLANE.T, torch.eye(2, dtype=torch.float64))
    assert not pictures._PLANE.sum(1).abs().gt(1e-12).any()
