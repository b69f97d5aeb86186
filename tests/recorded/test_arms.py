"""A sweep goes on while the best is at an edge; the best setting of each; rows are kept seed by seed."""

import json

import pytest

from fourfold.recorded import arms, benchmark


def tried(settings, score):
    return list(arms.swept(settings, score))


def test_a_sweep_ends_when_the_best_is_inside():
    assert tried((1.0, 2.0, 4.0), lambda x: -abs(x - 2)) == [1.0, 2.0, 4.0]
    assert tried((1.0, 2.0, 4.0), lambda x: -abs(x - 8)) == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert tried((1.0, 2.0, 4.0), lambda x: -abs(x - 0.5)) == [1.0, 2.0, 4.0, 0.5, 0.25]


def test_a_sweep_goes_two_steps_beyond_and_no_more():
    assert tried((1.0, 2.0), lambda x: x) == [1.0, 2.0, 4.0, 8.0]
    assert tried((1.0, 2.0), lambda x: -x) == [1.0, 2.0, 0.5, 0.25]


def test_what_are_no_numbers_to_go_beyond_are_tried_as_they_are():
    assert tried(((1, 2), (3, 4)), sum) == [(1, 2), (3, 4)]
    assert tried((5, 7, 9), lambda x: x) == [5, 7, 9]
    assert tried((7.5,), lambda x: x) == [7.5]
    assert tried((None,), lambda _: 0.0) == [None]
    with pytest.raises(ValueError, match="settings must be at least one, got none"):
        arms.swept((), lambda _: 0.0)


def test_the_best_of_each_place_and_the_first_of_equals():
    rows = [
        {"task": "a", "arm": "x", "setting": 1, "gain": 0.1},
        {"task": "a", "arm": "x", "setting": 2, "gain": 0.3},
        {"task": "a", "arm": "x", "setting": 3, "gain": 0.3},
        {"task": "b", "arm": "x", "setting": 4, "gain": -1.0},
    ]
    assert arms.best(rows, "gain", "task", "arm") == {("a", "x"): 2, ("b", "x"): 4}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(benchmark, "SCRIPTS", tmp_path)
    (tmp_path / "trial.py").write_text('"""A benchmark."""\n', encoding="utf-8")
    return tmp_path


def test_rows_are_kept_after_each_seed_and_a_record_of_todays_code_is_left_alone(folders, capsys):
    asked = []

    def of_seed(seed):
        asked.append(seed)
        if seed > 100:
            kept = json.loads((folders / "records" / "trial.json").read_text(encoding="utf-8"))
            assert kept["seeds"] == list(range(100, seed))
        return [{"seed": seed, "gain": 1.0}]

    arms.seed_by_seed("trial", range(100, 103), of_seed, settings={"x": 1})
    kept = benchmark.load("trial")
    assert [row["seed"] for row in kept["rows"]] == asked == [100, 101, 102]
    assert kept["settings"] == {"x": 1}
    assert "trial, seed 102:" in capsys.readouterr().out
    arms.seed_by_seed("trial", range(100, 103), of_seed)
    assert "of today's code" in capsys.readouterr().out
    (folders / "trial.py").write_text('"""Another one."""\n', encoding="utf-8")
    arms.seed_by_seed("trial", range(100, 102), of_seed)
    assert asked == [100, 101, 102, 100, 101]
