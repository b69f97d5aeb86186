"""Sources: what code reaches is followed through imports; nothing else can make a record stale."""

import pytest

from fourfold.judging import records
from fourfold.recorded import sources

ROOM = """
from fourfold.shop import tool, spare
import fourfold.depot as store

SIZE = 3
UNUSED = 4

def helper(x):
    return x * SIZE

def used(x):
    \"\"\"Doc.\"\"\"
    return helper(tool(x)) + store.stock()

class Part:
    def turn(self):
        return used(self)

def alone():
    return spare()
"""
SHOP = "def tool(x):\n    return x\n\ndef spare():\n    return 0\n\ntool(1)\n"
DEPOT = "def stock():\n    return COUNT\n\nCOUNT: int = 5\n\ndef other():\n    return 1\n"


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """A small package in place of fourfold; returns a function that rewrites one of its modules."""
    folder = tmp_path / "fourfold"
    folder.mkdir()
    monkeypatch.setattr(sources, "SOURCE", tmp_path)

    def write(**modules):
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(text)
        sources._module.cache_clear()

    write(room=ROOM, shop=SHOP, depot=DEPOT)
    yield write
    sources._module.cache_clear()


@pytest.mark.parametrize(
    "source",
    [
        "from fourfold.room import used\nused(1)",
        "from fourfold import room\nroom.used(1)",
        "import fourfold.room as r\nprint([r.used(i) for i in range(3)])",
        "import fourfold.room\ndef later():\n    return fourfold.room.used(1)",
        "def later():\n    from fourfold.room import used as u\n    return u(1)",
    ],
)
def test_what_is_reached_does_not_depend_on_how_it_is_imported(rooms, source):
    found = sources.reached(source)
    if "import fourfold.room\n" not in source:
        assert found.pop("fourfold.room") == {"used", "helper", "SIZE"}
        assert found == {"fourfold.shop": {"tool"}, "fourfold.depot": {"stock", "COUNT"}}
    else:
        assert {"used", "helper", "SIZE"} <= found["fourfold.room"]


def test_a_class_brings_its_methods_and_a_module_handed_around_brings_everything(rooms):
    assert "helper" in sources.reached("from fourfold.room import Part\nPart()")["fourfold.room"]
    found = sources.reached("from fourfold import room\nfunction = getattr(room, 'al' + 'one')")
    assert found["fourfold.shop"] == {"tool", "spare"}


def test_rooms_without_numbers_are_left_out(rooms):
    assert "fourfold.shop" not in sources.reached(
        "from fourfold.room import used\nused(1)", without={"fourfold.shop"}
    )


USING = "from fourfold.room import used\nused(1)"
CHANGES = [
    ({"room": ROOM.replace("SIZE = 3", "SIZE = 4")}, ["SIZE"]),
    ({"room": ROOM.replace("helper(tool", "helper(2 * tool")}, ["used"]),
    ({"depot": DEPOT.replace("= 5", "= 6")}, ["COUNT"]),
    ({"shop": SHOP.replace("tool(1)", "tool(2)")}, ["*"]),
    ({"room": ROOM.replace("tool(x)", "tool(spare())")}, ["spare", "used"]),
    ({"room": ROOM.replace("UNUSED = 4", "UNUSED = 5")}, []),
    ({"room": ROOM.replace("return spare()", "return spare() + 1")}, []),
    ({"room": ROOM.replace("Doc.", "Said better.").replace("SIZE = 3", "SIZE = 3  # why")}, []),
    ({"depot": DEPOT + "\ndef more():\n    return COUNT\n"}, []),
]


@pytest.mark.parametrize(("modules", "stale"), CHANGES)
def test_a_changed_line_counts_if_the_numbers_went_through_it(rooms, modules, stale):
    then = sources.hashes("script", USING)
    rooms(**modules)
    assert sources.changed(then, sources.hashes("script", USING)) == stale


def test_moving_a_definition_makes_nothing_stale(rooms):
    then = sources.hashes("script", USING)
    moved = ROOM.replace("SIZE = 3\n", "").replace("def helper(x):\n    return x * SIZE\n", "")
    rooms(
        room=moved.replace(
            "from fourfold.shop import tool, spare", "from fourfold.shop import spare, helper as h"
        )
        .replace("helper(tool(x))", "h(shop.tool(x))")
        .replace("import fourfold.depot as store", "from fourfold import depot, shop")
        .replace("store.stock", "depot.stock"),
        shop="from fourfold.size import SIZE as S\n\ndef helper(x):\n    return x * S\n\n" + SHOP,
        size="SIZE = 3\n",
    )
    assert sources.changed(then, sources.hashes("script", USING)) == []
    page = "import fourfold.room as away\naway.used(1)"
    assert sources.hashes("script", page) == sources.hashes("script", USING)


def test_a_name_is_what_it_was_imported_from(rooms):
    ours, theirs = "from math import sqrt\nsqrt(2)", "from torch import sqrt\nsqrt(2)"
    assert sources.meaning(ours) != sources.meaning(theirs)
    assert sources.meaning(ours) == sources.meaning("import math as m\n\nm.sqrt(2)")


PAGE = """```{code-cell} ipython3
:tags: [parameters]
seeds = 2
```

```{code-cell} ipython3
LABELS = {"y": "twice"}
FACTOR = 2

def double(x):
    return FACTOR * x

def draw(y):
    return LABELS

x = make(seeds)
```

```{code-cell} ipython3
:tags: [nbval-ignore-output]
y = double(x)
chapter.keep("y", y)
draw(y)
```

```{code-cell} ipython3
:tags: [nbval-ignore-output]
draw(x)
```
"""


def test_what_draws_is_no_experiment_but_up_to_what_it_keeps(tmp_path):
    (page := tmp_path / "page.md").write_text(PAGE)
    assert sources.experiment(page).split("\n") == [
        "FACTOR = 2",
        "def double(x):",
        "    return FACTOR * x",
        "x = make(seeds)",
        "y = double(x)",
        "chapter.keep('y', y)",
    ]


def test_comments_and_docstrings_have_no_meaning_but_text_has():
    documented = (
        '"""Doc."""\n\ndef f(x):\n    """Doc."""\n    y = x + 1\n    """What y is."""\n    return y\n'
    )
    plain = sources.meaning(documented)
    assert sources.meaning(documented.replace("Doc.", "More.").replace("return y", "return y  # so")) == plain
    assert sources.meaning(documented.replace("What y is.", "Why y.")) == plain
    assert sources.meaning(documented.replace("x + 1", "x + 2")) != plain
    assert sources.meaning("y = 'Doc.'") != sources.meaning("y = 'More.'")


def test_a_page_runs_again_when_any_module_behind_it_changes():
    found = sources.files(records.ROOT / "notebooks" / "optics" / "convsharevit.md")
    rooms = (
        "optics/convsharevit",
        "chapter",
        "figures/style",
        "judging/card",
        "bench4f/light",
        "recorded/machine",
    )
    assert {f"src/fourfold/{room}.py" for room in rooms} <= set(found)
    assert "src/fourfold/bench4f/optical_conv.py" not in found


def test_every_python_writes_the_same_text():
    # As Python 3.11 wrote them when the first hashes were recorded; 3.12 and later would use ' throughout.
    written = {
        """f"{row['a']:>{width}} it's\\n" """: '''f"{row['a']:>{width}} it's\\n"''',
        """f"{row['a']}" """: '''f"{row['a']}"''',
        '''f"""{f"{x!r}"}, "it's" {{}}"""''': '''f"""{f'{x!r}'}, "it's" {{}}"""''',
        '''f"{x if x else 'none'}" + f"{x}"''': """f"{(x if x else 'none')}" + f'{x}\'""",
    }
    assert {source: sources.meaning(source) for source in written} == written
