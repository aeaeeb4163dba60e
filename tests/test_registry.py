"""Names from outside: what a text can give, what is registered, and plugins."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

import pytest

import ablate
import estimators
import nas
import search_spaces
import train_search
from estimators import Schedule
from nas.bilevel import Policy, Rule, Shrinking, Term
from nas.zero_cost import ZeroCost
from recipes import InputError
from recipes.plugins import import_plugins, require_plugins
from recipes.registry import Registry, parameters

if TYPE_CHECKING:
    from decimal import Decimal


class Thing:
    """What a registered class can ask for."""

    def __init__(
        self,
        number: float | None = 1.0,
        level: Literal[1, 2, True, None] = 1,
        mode: Literal["a", "b"] | None = "a",
        old: Optional[int] = None,  # noqa: UP045
        either: str | int = "x",
        path: Path | None = None,
        weight: Schedule = Schedule(1.0, 1.0),  # noqa: B008
        function: Callable[[float], float] = abs,
        names: list[str] | None = None,
        later: Decimal = 3,  # type: ignore[assignment]
        bare=2.5,  # type: ignore[no-untyped-def]
        text=None,
        anything: Any = False,
        **more: float,
    ) -> None:
        self.__dict__.update({key: value for key, value in locals().items() if key != "self"})


@pytest.fixture
def registry(monkeypatch):
    """A kind of its own."""
    monkeypatch.setattr(Registry, "kinds", dict(Registry.kinds))
    return Registry("thing", {"thing": Thing, "part": partial(Thing, bare=1.0)})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("number=none", None), ("number=0.5", 0.5), ("level=2", 2), ("level=true", True),
        ("level=none", None), ("mode=b", "b"), ("mode=none", None), ("old=7", 7), ("old=None", None),
        ("either=7", 7), ("either=y", "y"), ("path=a/b", Path("a/b")), ("weight=1:2", Schedule(1.0, 2.0)),
        ("later=4", 4), ("bare=4", 4.0), ("text=4", "4"), ("anything=true", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["thing", "part"])
def test_a_text_is_read_as_the_annotation_or_the_default_says(registry, name, setting, value):
    found = getattr(registry.build(f"{name}:{setting}"), setting.partition("=")[0])
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("number=nan", "number is 'nan', expected a number or none"),
        ("number=inf", "expected a number or none"),
        ("weight=nan", "expected START:END or a number"),
        ("weight=0:1e999", "expected START:END or a number"),
        ("level=3", "expected 1 or 2 or true or none"),
        ("old=1.5", "expected an integer or none"),
        ("function=abs", "function cannot be given as text"),
        ("names=a", "names cannot be given as text"),
        ("later=x", "later is 'x', expected an integer"),
        ("more=1", "unknown setting 'more'"),
    ],
)
def test_what_no_text_can_mean_is_one_line(registry, setting, words):
    with pytest.raises(InputError, match=words) as caught:
        registry.build(f"thing:{setting}")
    assert "\n" not in str(caught.value)


def test_only_what_has_a_name_is_a_parameter():
    def make(first: int, /, *rest: int, key: bool = True, **more: int) -> None: ...

    assert parameters(make) == {"key": bool}


def test_a_class_that_makes_no_object_is_one_line(registry):
    class Halfway(Policy):
        pass

    def broken(count: int = 1) -> None:
        raise TypeError("unsupported operand")

    def needs(function: Callable[[], None]) -> None: ...

    for name, make in (("halfway", Halfway), ("broken", broken), ("needs", needs)):
        registry.register(name, make)
    with pytest.raises(InputError, match=r"'halfway' cannot be made: .*abstract"):
        registry.build("halfway")
    with pytest.raises(InputError, match="'broken:count=2' cannot be made: unsupported operand"):
        registry.build("broken:count=2")
    with pytest.raises(InputError, match="function cannot be given as text"):
        registry.build("needs")


# Registration


@pytest.mark.parametrize(
    ("register", "base"),
    [
        (estimators.register, estimators.Estimator),
        (nas.register_term, Term),
        (nas.register_policy, Policy),
        (nas.register_rule, Rule),
        (nas.register_shrinking, Shrinking),
        (nas.register_zero_cost, ZeroCost),
    ],
)
def test_classes_are_expected_and_take_on_the_name(register, base):
    own = type("Own", (base,), {})
    assert register("own", own).name == "own"
    with pytest.raises(ValueError, match="is named 'own', expected 'other'"):
        register("other", own)
    with pytest.raises(ValueError, match=f"'other' is the class Thing, expected .* {base.__name__}"):
        register("other", Thing)
    with pytest.raises(ValueError, match=f"expected a class derived from {base.__name__}"):
        register("other", 5)
    whole = type("Whole", (base,), dict.fromkeys(base.__abstractmethods__, lambda *_: None))
    with pytest.raises(ValueError, match="is an object: register its class"):
        register("other", whole())
    with pytest.raises(ValueError, match="no name for"):
        register(5, own)


def test_a_cell_of_a_notebook_can_be_executed_again():
    cell = (
        "import nas, search_spaces\nfrom search_spaces import operations\nfrom search_spaces.nasbench201 "
        "import DenseCellSpace\nclass Mine(nas.bilevel.Term): pass\nnas.register_term('mine', "
        "Mine)\noperations.register('mine', lambda *_: None)\nnas.data.register('mine', lambda: None)\nspace "
        "= search_spaces.register(DenseCellSpace('mine', nodes=3, channels=4, cells=1))\n"
    )
    for _ in range(2):
        notebook = {"__name__": "notebook"}
        exec(cell, notebook)
        assert search_spaces.get("mine") is notebook["space"]
        assert Registry.kinds["term"].get("mine") is notebook["Mine"]
    with pytest.raises(ValueError, match="the term 'mine' exists already"):
        exec(cell, {"__name__": "another"})
    with pytest.raises(ValueError, match="the term 'mine' exists already"):
        exec(cell.replace("Mine", "Yours"), {"__name__": "notebook"})
    with pytest.raises(ValueError, match="exists already"):
        estimators.register("st", estimators.family("st"))  # what comes along stays


# Plugins


@pytest.fixture
def modules():
    """What a test imports is forgotten after it."""
    before, path = set(sys.modules), sys.path[:]
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith("nas_plugin_") or name == "beside":
            del sys.modules[name]


TERM = "import nas\nclass Mine(nas.bilevel.Term): pass\nnas.register_term({name!r}, Mine)\n"


@pytest.mark.usefixtures("modules")
def test_plugins_hide_no_module_and_one_another(tmp_path):
    import json

    (tmp_path / "a").mkdir()
    for folder in ("", "a/"):
        (tmp_path / f"{folder}json.py").write_text(TERM.format(name=f"{folder.strip('/') or 'b'}_term"))
    import_plugins(["json.py", "a/json.py", str(tmp_path / "json.py"), "a/../json.py"])  # each once
    assert sys.modules["json"] is json
    assert Registry.kinds["term"].added() == ["b_term", "a_term"]
    kind = Registry.kinds["term"].get("a_term")
    assert sys.modules[kind.__module__].Mine is kind


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("end", ["1 / 0", "import sys; sys.exit(3)", "raise SystemExit"])
def test_a_plugin_that_fails_can_be_corrected(end):
    Path("beside.py").write_text(TERM.format(name="beside"))
    Path("plugin.py").write_text(f"import beside\n{TERM.format(name='own')}{end}\n")
    for _ in range(2):
        with pytest.raises(InputError, match=r"the plugin 'plugin.py' cannot be imported"):
            import_plugins(["plugin.py"])
        assert "own" not in Registry.kinds["term"]
    assert "beside" in Registry.kinds["term"]  # it has been imported, and will not be once more
    Path("plugin.py").write_text(f"import beside\n{TERM.format(name='own')}# corrected\n")
    import_plugins(["plugin.py"])
    assert Registry.kinds["term"].added() == ["beside", "own"]


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--terms", "entropy", "--epochs", "3", "--terms", "beta_decay"], "--terms"),
        (["--terms=entropy", "--terms", "beta_decay"], "--terms"),
        (["--plugins", "nowhere.py", "--plugins", "elsewhere.py"], "--plugins"),
    ],
)
def test_options_of_several_values_are_given_once(words, flag, capsys):
    assert train_search.main(words) == 2
    error = capsys.readouterr().err
    assert error == f"error: {flag} is given 2 times: give all values at once, {flag} A B\n"


def test_methods_are_given_once(capsys):
    assert ablate.main(["nas", "--methods", "st", "--methods", "reinmax"]) == 2
    assert capsys.readouterr().err.startswith("error: --methods is given 2 times")


def test_a_plugin_may_be_named_by_another_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_plugins(["mine/part.py", "json"], [str(tmp_path / "mine" / "part.py"), "json"])
    for given in (["part.py", "json"], ["mine/part.py", "json.tool"]):
        with pytest.raises(InputError, match="that run needs `plugins="):
            require_plugins(["mine/part.py", "json"], given)


class Soft(estimators.family("reinmax")):
    """Says that it draws, and mixes."""

    def __call__(self, logits, generator=None):
        return logits.softmax(-1)


class Rounded(estimators.family("reinmax")):
    """Adds and takes away, which leaves one-hot vectors nearly so."""

    def __call__(self, logits, generator=None):
        p = logits.softmax(-1)
        return super().__call__(logits, generator).detach() + p - p.detach()


class Late(estimators.family("reinmax")):
    """Mixes, but not where a hundred draws are made at once to see whether it does."""

    def __call__(self, logits, generator=None):
        draw = super().__call__(logits, generator)
        return draw if len(logits) == 100 else draw * 0.5


class Idle(Rule):
    """Forgets to yield."""

    def select(self, search):
        pass

    def selected(self, search):
        return search.space.discretise(search.architecture.scores())


class Still(Shrinking):
    """Forgets to yield."""

    name = "still"

    def after(self, search, epoch):
        return None


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"estimator": Soft()}, "draws .* expected a one-hot vector"),
        ({"estimator": Rounded()}, "draws .* expected a one-hot vector"),
        ({"estimator": Late()}, "draws .* expected a one-hot vector"),
        ({"derive": Idle()}, "`select` of the rule 'Idle' returns no iterator, expected one"),
        ({"shrink": Still()}, "`after` of the shrinking 'still' returns no iterator, expected one"),
    ],
)
def test_parts_that_do_not_keep_their_word_are_named(parts, says):
    options = {"epochs": 1, "channels": 4, "train_limit": 40, "batch_size": 16, "warmup_epochs": 0}
    with pytest.raises(InputError, match=says):
        nas.search("micro", **options, **parts)
