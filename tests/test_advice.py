"""Every refusal names the option or the file to change, and the way that works."""

import ast
import re

import pytest
from conftest import ROOT

import ablate
import estimators
import train_final
import train_search
from recipes import FinalOptions, InputError
from recipes.config_file import config_json, require_same
from recipes.options import SearchOptions

CELL = "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|"
# What tells a reader what to do, or what would be right.
ADVICE = re.compile(
    r"\b(expected|give|drop|choose|lower|keep|add|rename|repair|remove|restore|correct|check|delete|wait|"
    r"install|convert|save|sort|name|list|merge|move|pair|permute|rescale|make|start|continue|replace|"
    r"did you mean|take|copy|needs|let|train|must|sum|search|see|leave|ask|raise|measure|get|use|"
    r"starts again|but `space` is)\b"
)
# What is to be changed: an option, a file, or whatever else was given and is repeated.
NAMED = re.compile(r"`\w+|--[a-z]|\{|'\w+'")


def messages():
    """Every message of an InputError in the package, with `{...}` for what is filled in."""
    for folder in ("nas", "recipes", "ablation"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError":
                    yield pytest.param(_template(node.args[0]), id=f"{path.relative_to(ROOT)}:{node.lineno}")


def _template(node):
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            v.value if isinstance(v, ast.Constant) else f"{{{ast.unparse(v.value)}}}" for v in node.values
        )
    if isinstance(node, ast.BinOp):
        return _template(node.left) + _template(node.right)
    return f"{{{ast.unparse(node)}}}"


@pytest.mark.parametrize("message", list(messages()))
def test_every_message_says_what_to_do(message):
    for name in (
        "EXPECTED",
        "json_table.AGAIN",
        "_go_on(options, objects)",
        "_summary(failures)",
        "_why(paths[0])",
        "self._unreachable()",
        "wrong",
        "hint",
        "here",
    ):
        message = message.replace(f"{{{name}}}", "give what is expected")  # these say what
    if re.search(
        r"\{(error|problem|str\(error\)|failures\[|problems\[|bad\[|text|_wrong_object|re\.split)", message
    ):
        return  # hands on a message that is in the list itself, or one of a library
    assert NAMED.search(message) or "expected" in message or "images" in message, message
    assert ADVICE.search(re.sub(r"\{[^{}]*\}", "", message)) or "{advice" in message, message


def error(main, arguments, capsys):
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_a_grid_on_a_folder_of_ones_own_names_the_way_without_a_table(tmp_path, capsys):
    message = error(ablate.main, ["nas", "--dataset", f"folder:{tmp_path}"], capsys)
    assert "--evaluate retrain trains every cell that is found" in message
    assert "--table FILE" in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gdas", "st_gumbel with --edge-gradient surrogate (in a grid: st_gumbel,edge_gradient=surrogate)"),
        ("GDAS", "--preset nasbench201-gdas"),
        ("darts", "--preset darts-first-order"),
        ("snas", "the relaxed draw of SNAS is concrete"),
        ("gumbel-softmax", "st_gumbel"),
    ],
)
def test_names_of_others_are_told_apart_from_mistakes(name, words, tmp_path, capsys):
    assert words in error(train_search.main, ["--estimator", name, "--out", str(tmp_path / "r")], capsys)
    assert words in error(ablate.main, ["nas", "--methods", name, "--out", str(tmp_path / "g")], capsys)


def test_what_is_named_exists():
    from estimators import _ELSEWHERE
    from recipes import presets

    text = " ".join(_ELSEWHERE.values())
    for preset in re.findall(r"`preset=([\w-]+)`", text):
        assert preset in presets.SEARCH
    fields = set(SearchOptions.__dataclass_fields__)
    assert set(re.findall(r"`(\w+)=", text)) <= fields
    estimators.get("st_gumbel")
    with pytest.raises(InputError, match="did you mean reinmax"):  # a mistake is one
        estimators.get("reinmx")


def test_more_epochs_on_resume(tmp_path):
    options = FinalOptions(genotype=CELL, epochs=3, out=str(tmp_path))
    stored = {k: v for k, v in config_json(options).items() if k != "kind"} | {"epochs": 2, "plugins": ()}
    names = (
        "`weights=" if "weights" in FinalOptions.__dataclass_fields__ else "`epochs` are part of its schedule"
    )
    with pytest.raises(InputError, match=re.escape(names)):
        require_same(options, stored)
    with pytest.raises(InputError, match=r"new `out`$"):
        require_same(options, stored | {"epochs": 4})


def test_a_training_folder_without_test_names_what_it_saw(tmp_path, capsys):
    for folder in ("train/a", "train/b", "holdout/a", "holdout/b"):
        (tmp_path / "p" / folder).mkdir(parents=True)
    message = error(train_final.main, ["--genotype", CELL, "--dataset", f"folder:{tmp_path / 'p'}"], capsys)
    assert "has train/ but no test/; besides it there is 'holdout'" in message
    assert "--test-fraction is set aside" in message
