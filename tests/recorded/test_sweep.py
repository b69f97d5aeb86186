"""Sweeps: bad files are refused, points keep their names, and the table is the same wherever they ran."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fourfold.book import html
from fourfold.judging import records
from fourfold.recorded import evidence, executed, sweep, sweep_run, sweep_table

GIVEN = {
    "title": "A sweep",
    "chapter": "convsharevit",
    "parameters": {"arms_a": None, "epochs_b": 3},
    "grid": {"p": [8, 16], "arms_b": [["valid"], ["same3"]]},
    "seed": 300,
    "seeds": 2,
    "measure": {"accuracy": "recall.arms.{arms_b}.accuracy", "solves": "C4a.solves"},
}
SOURCES = {"notebook": "a" * 16, "fourfold.bench4f.light": "b" * 16}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A project folder of its own."""
    for name, folder in {"SWEEPS": "sweeps", "TABLES": "data/sweeps", "RUNS": "_build/sweeps"}.items():
        for module in (sweep, sweep_table, sweep_run):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, tmp_path / folder)
    (tmp_path / "sweeps").mkdir()
    return tmp_path


def write(places, changes=(), name="study", without=()):
    path = places / "sweeps" / f"{name}.yml"
    kept = {key: value for key, value in {**GIVEN, **dict(changes)}.items() if key not in without}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


def made(**changes):
    return sweep.Sweep.model_validate({"name": "study", **GIVEN, **changes})


def accuracy(point):
    return 0.5 + 0.001 * (point.values["seed"] - 300) + 0.01 * point.values["p"] + 1 / 3e9


def notebook(point, date="2026-01-02", processor="a", broken=None, data=None):
    """The executed notebook of one point, written by hand."""
    about = {"processor": processor, "cores": 2, "python": "3", "versions": {"torch": "2"}}
    (arm,) = point.values["arms_b"]
    data = data or {"arms": {arm: {"accuracy": [accuracy(point)], "epochs": ["inf"]}}}
    findings = [{"name": "solves", "values": [accuracy(point)]}, {"name": "attends", "values": None}]
    faces = [
        {"kind": "run", "parameters": dict(point.values), "started": f"{date}T03:04:05", **about},
        {"kind": "data", "name": "recall", "data": data},
        {"kind": "verdict", "claim": "C4a", "findings": findings},
    ]
    outputs = [nbformat.v4.new_output("display_data", {}, metadata={"fourfold": face}) for face in faces]
    if broken:
        outputs.append(nbformat.v4.new_output("error", ename="ValueError", evalue=broken, traceback=[]))
    status = "failed" if broken else "completed"
    cell = nbformat.v4.new_code_cell("run", outputs=outputs, metadata={"papermill": {"status": status}})
    node = nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {"duration": 12.34}})
    path = sweep.run_of(point)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(node, path)
    return path


# --- the file ---------------------------------------------------------------------------------------------

BAD = [
    ({"grids": {}}, "study.yml: grids: Extra inputs are not permitted"),
    ({"title": ""}, "study.yml: title: String should have at least 1 character"),
    ({"name": "other"}, "study.yml: name: not a key"),
    ({"grid": {}}, "study.yml: grid: Dictionary should have at least 1 item"),
    ({"grid": {"p": []}}, "study.yml: grid.p: List should have at least 1 item"),
    ({"grid": {"p": 8}}, "study.yml: grid.p: Input should be a valid list, got 8"),
    ({"seeds": 0}, "study.yml: seeds: Input should be greater than or equal to 1, got 0"),
    ({"seeds": "4"}, "study.yml: seeds: Input should be a valid integer, got '4'"),
    ({"seed": -1}, r"study.yml: seed = -1: expected int, 0\.\.1000000"),
    ({"seed": 999_999, "seeds": 3}, r"study.yml: seed = 1000001: expected int, 0\.\.1000000"),
    ({"seeds": 501}, "study.yml: grid: 2004 runs; expected at most 2000"),
    ({"seeds": 10**12}, "study.yml: grid: 4000000000000 runs; expected at most 2000"),
    ({"measure": {}}, "study.yml: measure: Dictionary should have at least 1 item"),
    ({"measure": {"a": 3}}, "study.yml: measure.a: Input should be a valid string, got 3"),
    ({"measure": {"A b": "recall.x"}}, "study.yml: measure.A b.*: String should match pattern"),
    ({"measure": {"p": "recall.x"}}, "study.yml: measure: p: the table has a column of that name"),
    ({"measure": {"point": "recall.x"}}, "study.yml: measure: point: the table has a column of that name"),
    ({"measure": {"a": "recall..x"}}, "study.yml: measure: a = 'recall..x': expected a path such as"),
    ({"measure": {"a": "r.{arm}"}}, r"study.yml: measure: a = 'r.\{arm\}': \{arm\} is no parameter"),
    ({"measure": {"a": "r.{plane}"}}, r"\{plane\} is \[256, 512, .*\] in a run; expected one value"),
    ({"measure": {"a": "C9.solves"}}, "study.yml: measure: a = 'C9.solves': convsharevit has no claim 'C9'"),
    ({"measure": {"a": "C4a.solved"}}, "expected C4a.<finding>; findings are solves, attends, uniform"),
    ({"measure": {"a": "C4a"}}, "expected C4a.<finding>; findings are solves, attends, uniform"),
    ({"chapter": "convsharevat"}, "study.yml: chapter: no record 'convsharevat' in data/papers"),
    ({"chapter": "../main"}, "study.yml: chapter: String should match pattern"),
    ({"grid": {"p": [8, 7]}}, r"study.yml: p = 7: expected int, 8 \| 16 \| 32"),
    ({"grid": {"p": [8, "16"]}}, "study.yml: p = '16': expected int"),
    ({"grid": {"P": [8]}}, "study.yml: grid.P.*: String should match pattern"),
    ({"grid": {"patch": [8]}}, "study.yml: patch = 8: convsharevit has no such parameter"),
    ({"grid": {"p": [8, 8]}}, "study.yml: grid: p repeats 8"),
    ({"grid": {"arms_b": ["valid"]}}, r"study.yml: arms_b = 'valid': expected list\[str\], each linear \|"),
    ({"grid": {"arms_b": [["vaild"]]}}, r"study.yml: arms_b = \['vaild'\]: expected list\[str\]"),
    ({"grid": {"seed": [1]}}, "study.yml: grid: seed: the seeds of a sweep are its keys seed and seeds"),
    ({"parameters": {"seeds": 4}}, "study.yml: parameters: seeds: the seeds of a sweep are its keys"),
    ({"parameters": {"p": 8}}, "study.yml: p: in parameters and in grid"),
    ({"parameters": {"epoch_b": 8}}, "study.yml: epoch_b = 8: .* did you mean 'epochs_b'"),
    ({"parameters": {"frame_hz": "1e6"}}, r"study.yml: frame_hz = '1e6': .* write 1.0e6"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:60] for _, message in BAD])
def test_a_file_that_cannot_be_run_is_refused_with_what_is_wrong(places, changes, message):
    with pytest.raises(sweep.SweepError, match=message):
        sweep.read(write(places, changes))


@pytest.mark.parametrize("key", [key for key in GIVEN if key != "parameters"])
def test_a_key_left_out_is_named(places, key):
    with pytest.raises(sweep.SweepError, match=f"study.yml: {key}: Field required"):
        sweep.read(write(places, without=[key]))


def test_a_chapter_that_is_not_written_yet_is_refused(places, monkeypatch):
    monkeypatch.setattr(records.Record, "has_chapter", False)
    with pytest.raises(sweep.SweepError, match="chapter: snn has a record and no chapter yet"):
        sweep.read(write(places, {"chapter": "snn"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "study.yml: expected keys title, chapter, .*, measure, got None"),
        ("- 1\n", r"study.yml: expected keys title, .* got \[1\]"),
        ("grid: [1, 2\n", "study.yml: not valid YAML"),
        ("seed: 1\nseed: 2\n", "study.yml: not valid YAML: key 'seed' stands there twice"),
        ("a: !!python/object/apply:os.system [true]\n", "study.yml: not valid YAML"),
    ],
)
def test_what_is_no_mapping_is_refused(places, text, message):
    path = places / "sweeps" / "study.yml"
    path.write_text(text)
    with pytest.raises(sweep.SweepError, match=message):
        sweep.read(path)


def test_a_file_must_be_one_of_the_sweeps(places):
    inside, outside = write(places), places / "study.yml"
    shutil.copy(inside, outside)
    for path in (outside, places / "sweeps" / "other.yml", places / "sweeps"):
        with pytest.raises(
            sweep.SweepError, match=r"expected a file sweeps/<name>.yml; .*: sweeps/study.yml"
        ):
            sweep.read(path)


def test_everything_that_is_wrong_is_named_once(places):
    path = write(
        places, {"grid": {"p": [7, 9], "arms_b": [["valid"], ["same3"]]}, "parameters": {"epohs_a": 1}}
    )
    with pytest.raises(sweep.SweepError) as refused:
        sweep.read(path)
    lines = str(refused.value).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["epohs_a = 1", "p = 7", "p = 9"]


@pytest.mark.parametrize("given", ["sweeps/study.yml", "nowhere.yml"])
def test_the_command_refuses_in_one_line_with_exit_code_2(places, monkeypatch, capsys, given):
    write(places, {"grid": {"p": [7]}})
    monkeypatch.chdir(places)
    monkeypatch.setattr(sys, "argv", ["sweep", given])
    with pytest.raises(SystemExit) as stopped:
        sweep_run.main()
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert said.err.startswith("sweep: ")
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


# --- points -----------------------------------------------------------------------------------------------


def test_every_combination_and_seed_is_a_point_with_all_parameters():
    points = made().points
    assert [tuple(point.varied.values()) for point in points] == [
        (p, arms, seed) for p in (8, 16) for arms in (["valid"], ["same3"]) for seed in (300, 301)
    ]
    for point in points:
        assert point.values.keys() == records.load("convsharevit").parameters.keys()
        assert (point.values["seeds"], point.values["epochs_b"], point.values["depth"]) == (1, 3, 2)


AXES = {
    "p": [8, 16, 32],
    "heads": [1, 2, 4, 8],
    "frame_hz": [1e3, 1e4, 2.5e6],
    "plane": [[104], [256], [256, 512], [512, 256]],
    "sign": ["pm", "offset"],
}
GRIDS = st.dictionaries(st.sampled_from(list(AXES)), st.just(None), min_size=1).flatmap(
    lambda names: st.fixed_dictionaries(
        {name: st.lists(st.sampled_from(AXES[name]), min_size=1, unique_by=str) for name in names}
    )
)


@given(grid=GRIDS, data=st.data())
def test_a_point_keeps_its_name_in_a_grid_that_grew_or_was_reordered(grid, data):
    small = made(grid=grid)
    order = data.draw(st.permutations(list(grid)))
    grown = {name: data.draw(st.permutations(AXES[name])) for name in order}
    large = made(grid=grown, seeds=3)

    def named(study):
        return {json.dumps(point.values, sort_keys=True): point.name for point in study.points}

    assert named(small).items() <= named(large).items()
    assert len({point.name for point in large.points}) == len(large.points)


def test_another_chapter_or_parameter_is_another_name():
    (point,) = made(grid={"p": [8]}, seeds=1).points
    others = [
        *made(grid={"p": [8]}, seeds=1, parameters={"epochs_b": 4}).points,
        *made(grid={"p": [8]}, seeds=1, seed=301).points,
        sweep.Point("four_f", point.values, point.varied),
    ]
    assert len({point.name, *(other.name for other in others)}) == 4


# --- measures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text"),
    [("a.b", "0.333333"), ("a.l.1", "2"), ("one", "7"), ("never", "inf"), ("yes", "1"), ("C1.x", "-1.5e-07")],
)
def test_a_measure_is_the_number_at_the_end_of_its_path(places, path, text):
    study = made(measure={"m": path}, grid={"p": [8], "arms_b": [["valid"]]}, seeds=1)
    (point,) = study.points
    found = {"a": {"b": 1 / 3, "l": [1, 2]}, "one": [7], "never": "inf", "yes": [True], "C1": {"x": -1.5e-7}}
    assert f"{sweep_table._number(found, sweep.steps(path, point)):.6g}" == text


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("b", "the run has no 'b'; it has a, l, t, none"),
        ("a.x", "a has no 'x'; it has b"),
        ("l.2", "l has no '2'; it is a list of 2"),
        ("a.b.c", "a.b has no 'c'; it is 1"),
        ("l", r"l is not one number, it is \[1, 2\]"),
        ("t", "t is not one number, it is 'text'"),
        ("none", "none was not measured with these parameters"),
    ],
)
def test_a_measure_that_leads_nowhere_says_where_it_stopped(path, message):
    found = {"a": {"b": 1}, "l": [1, 2], "t": "text", "none": [None]}
    with pytest.raises(ValueError, match=message):
        sweep_table._number(found, path.split("."))


# --- the table --------------------------------------------------------------------------------------------


def kept(study, hashes=SOURCES):
    path = sweep_table.keep(study, hashes)
    return path.read_bytes(), json.loads(path.with_suffix(".json").read_text())


def test_the_table_has_a_row_for_each_point_in_the_order_of_the_file(places):
    study = made(grid={"p": [16, 8], "arms_b": [["valid"]]})
    for point in study.points:
        notebook(point)
    table, about = kept(study)
    names = [point.name for point in study.points]
    assert table.decode().splitlines() == [
        "point,p,arms_b,seed,accuracy,solves",
        f"{names[0]},16,valid,300,0.66,0.66",
        f"{names[1]},16,valid,301,0.661,0.661",
        f"{names[2]},8,valid,300,0.58,0.58",
        f"{names[3]},8,valid,301,0.581,0.581",
    ]
    assert about["sources"] == SOURCES
    assert [(m["date"], m["processor"], list(m["seconds"])) for m in about["machines"]] == [
        ("2026-01-02", "a", names)
    ]


def test_the_table_is_the_same_bytes_whatever_ran_when_and_where(places):
    study = made()
    for point in study.points:
        notebook(point)
    first, _ = kept(study)
    shutil.rmtree(sweep.RUNS)
    shutil.rmtree(sweep_table.TABLES)
    for i, point in enumerate(reversed(study.points)):
        notebook(point, date=f"2027-02-0{1 + i % 3}", processor=f"machine {i % 2}")
    second, about = kept(study)
    assert first == second
    assert len(about["machines"]) == 6
    assert sorted(name for m in about["machines"] for name in m["seconds"]) == sorted(
        point.name for point in study.points
    )


def test_a_measure_that_a_run_does_not_have_is_named_and_nothing_is_written(places):
    study = made(measure={"accuracy": "recall.arms.{arms_b}.accurate", "late": "C4a.attends"}, seeds=1)
    for point in study.points:
        notebook(point)
    with pytest.raises(sweep.SweepError) as refused:
        sweep_table.keep(study, SOURCES)
    lines = str(refused.value).splitlines()
    assert len(lines) == 2 * len(study.points)
    assert lines[0] == (
        "p = 8, arms_b = ['valid'], seed = 300: measure accuracy: recall.arms.valid has no 'accurate'; "
        "it has accuracy, epochs"
    )
    assert "measure late: C4a.attends was not measured with these parameters" in lines[1]
    assert not sweep_table.TABLES.exists()


def test_a_run_with_other_parameters_is_not_taken_for_the_point(places):
    study = made(seeds=1)
    for point in study.points:
        notebook(point)
    first, second, *_ = study.points
    shutil.copy(sweep.run_of(second), sweep.run_of(first))
    with pytest.raises(sweep.SweepError, match="ran with other parameters"):
        sweep_table.keep(study, SOURCES)


def test_failed_points_are_named_and_only_they_are_run_again(places):
    study = made(seeds=1)
    failed, cut, absent, _ = study.points
    sweep_run.prepare(study, SOURCES)
    for point in study.points:
        notebook(point)
    notebook(failed, broken="the light is off\nmore")
    sweep.run_of(cut).write_text(sweep.run_of(cut).read_text()[:200])
    sweep.run_of(absent).unlink()
    with pytest.raises(sweep.SweepError) as refused:
        sweep_table.keep(study, SOURCES)
    assert str(refused.value).splitlines() == [
        f"p = 8, arms_b = ['valid'], seed = 300 ({failed.name}): ValueError: the light is off",
        f"p = 8, arms_b = ['same3'], seed = 300 ({cut.name}): its notebook is damaged",
        f"p = 16, arms_b = ['valid'], seed = 300 ({absent.name}): was not run",
    ]
    assert not sweep_table.TABLES.exists()
    wanted = sweep_run.prepare(study, SOURCES)
    assert wanted == [sweep.run_of(point) for point in study.points]
    assert [path.is_file() for path in wanted] == [False, False, False, True]


def test_what_the_table_has_is_not_run_again_until_a_source_or_the_measures_change(places):
    study = made()
    for point in study.points:
        notebook(point)
    before, _ = kept(study)
    shutil.rmtree(sweep.RUNS)  # as in a fresh clone
    assert sweep_run.prepare(study, SOURCES) == []
    assert kept(study)[0] == before

    grown = made(grid={"p": [8, 16], "arms_b": [["same7"], ["valid"], ["same3"]]})
    wanted = sweep_run.prepare(grown, SOURCES)
    new = [point for point in grown.points if point.values["arms_b"] == ["same7"]]
    assert wanted == [sweep.run_of(point) for point in new]
    for point in new:
        notebook(point, date="2026-03-04")
    after, about = kept(grown)
    assert set(before.splitlines()) < set(after.splitlines())
    assert [(m["date"], len(m["seconds"])) for m in about["machines"]] == [
        ("2026-01-02", 8),
        ("2026-03-04", 4),
    ]

    assert len(sweep_run.prepare(grown, SOURCES | {"fourfold.bench4f.light": "c" * 16})) == len(grown.points)
    more = made(grid=grown.grid, measure={**GIVEN["measure"], "epochs": "recall.arms.{arms_b}.epochs"})
    assert len(sweep_run.prepare(more, SOURCES)) == len(grown.points)
    fewer = made(grid=grown.grid, measure={"solves": "C4a.solves"})
    assert sweep_run.prepare(fewer, SOURCES) == []
    assert kept(fewer)[0].splitlines()[0] == b"point,p,arms_b,seed,solves"


def test_files_that_say_nothing_new_keep_their_time_so_that_nothing_is_run_again(places):
    study = made(seeds=1)
    wanted = sweep_run.prepare(study, SOURCES)
    files = [wanted[0].with_suffix(".yml"), wanted[0].with_name("sources.json")]
    for path in files:
        os.utime(path, (1, 1))
    assert yaml.safe_load(files[0].read_text()) == study.points[0].values
    sweep_run.prepare(study, SOURCES)
    assert [path.stat().st_mtime for path in files] == [1, 1]
    sweep_run.prepare(study, SOURCES | {"notebook": "c" * 16})
    assert [path.stat().st_mtime == 1 for path in files] == [True, False]


def test_runs_of_other_code_are_thrown_away_and_never_recorded(places):
    study = made(seeds=1)
    for path in sweep_run.prepare(study, SOURCES):
        assert not path.exists()
    for point in study.points:
        notebook(point)
    assert all(path.is_file() for path in sweep_run.prepare(study, SOURCES))
    changed = SOURCES | {"notebook": "c" * 16}
    sweep_run.prepare(study, changed)
    # As when the build after it is killed: what is left must not pass for today's numbers.
    with pytest.raises(sweep.SweepError, match="was not run"):
        sweep_table.keep(study, changed)


def test_a_kill_while_the_table_is_written_leaves_nothing_that_looks_fresh(places, monkeypatch):
    study = made(seeds=1)
    for point in study.points:
        notebook(point)
    kept(study)
    written = []

    def killed(path, text, write=sweep_table.write):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, text)

    monkeypatch.setattr(sweep_table, "write", killed)
    changed = SOURCES | {"notebook": "c" * 16}
    with pytest.raises(KeyboardInterrupt):
        sweep_table.keep(study, changed)
    assert written == [sweep_table.TABLES / "study.csv"]
    assert sweep_table.recorded(study, changed) == ({}, [])


def test_code_that_changes_while_a_sweep_runs_is_noticed(places, monkeypatch):
    study = made(seeds=1)
    seen = iter([SOURCES, SOURCES | {"notebook": "c" * 16}, SOURCES])
    monkeypatch.setattr(evidence, "sources", lambda chapter: next(seen))
    monkeypatch.setattr(records, "ROOT", places)

    def build(*arguments, **options):
        for point in study.points:
            notebook(point)

    monkeypatch.setattr(sweep_run.subprocess, "run", build)
    monkeypatch.setattr(sweep_run.signal, "signal", lambda *arguments: None)
    with pytest.raises(sweep.SweepError, match="notebook changed while the sweep ran: run it again"):
        sweep_run.run(study, "profile")
    # Even if the change is taken back: nobody knows which runs saw it.
    assert not any(path.exists() for path in sweep_run.prepare(study, evidence.sources("convsharevit")))


def test_load_says_what_changed_and_what_is_missing(places):
    assert sweep_table.load("study") is None
    study = sweep.read(write(places))
    for point in study.points:
        notebook(point)
    kept(study, evidence.sources("convsharevit"))
    loaded = sweep_table.load("study")
    assert (loaded["stale"], loaded["missing"], len(loaded["rows"])) == ([], 0, 8)
    assert loaded["seconds"] == pytest.approx(8 * 12.3)
    assert loaded["rows"].groupby("p").accuracy.mean().round(4).tolist() == [0.5805, 0.6605]
    write(places, {"seeds": 3})
    path = sweep_table.TABLES / "study.json"
    path.write_text(path.read_text().replace('"light_pass": "', '"light_pass": "0'))
    loaded = sweep_table.load("study")
    assert (loaded["stale"], loaded["missing"]) == (["light_pass"], 4)


def test_words_and_figures_make_nothing_stale_and_what_a_figure_cell_keeps_does(places, monkeypatch):
    text = (executed.NOTEBOOKS / "optics" / "convsharevit.md").read_text()
    page = places / "convsharevit.md"
    monkeypatch.setattr(records.Record, "notebook", page)

    def after(old, new):
        assert old in text
        page.write_text(text.replace(old, new))
        return evidence.sources("convsharevit")

    now = after("", "")
    assert after("## The idea", "## An idea") == now
    assert after('name="own-bench"', 'name="another-bench"') == now
    assert after('by="layers", panel="kernels"', 'by="kernels", panel="layers"') == now
    for old, new in {
        "gpu_us_per_image or 439": "gpu_us_per_image or 440",
        '"images": batch,': "",
        "cells = 6": "cells = 7",
    }.items():
        changed = after(old, new)
        assert {name for name in now if now[name] != changed[name]} == {"notebook"}


# --- shipped ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(sweep.SWEEPS.glob("*.yml")), ids=lambda path: path.stem)
def test_a_shipped_sweep_is_recorded_whole_and_has_a_page(path):
    study, loaded = sweep.read(path), sweep_table.load(path.stem)
    assert loaded is not None
    assert loaded["missing"] == 0
    assert loaded["rows"].columns.tolist() == study.columns
    assert (executed.NOTEBOOKS / f"sweep_{path.stem}.md").is_file()
    assert f"chapters/sweep_{path.stem}" in html.toc_files()
    assert sweep_table.tables()[f"sweep_{path.stem}.csv"].is_file()


# --- the machinery ----------------------------------------------------------------------------------------

RECORD = """
slug: tiny
part: optics
name: Tiny
title: Tiny
authors: [Nobody]
year: 2026
arxiv: null
idea: A chapter that doubles a number.
claims: [{id: C1, statement: The double of a number is twice as large.}]
parameters:
  x: {type: int, quick: 1, full: 1, min: 0, max: 9, meaning: a number}
  seed: {type: int, quick: 0, full: 0, min: 0, max: 9, meaning: first seed}
  seeds: {type: int, quick: 1, full: 1, min: 1, max: 9, meaning: number of seeds}
"""
PARAMETERS = "x: int = 1\nseed: int = 0\nseeds: int = 1"
CODE = """
from pathlib import Path

folder = Path({folder!r})
with open(folder / "runs.txt", "a") as runs:
    print(x, file=runs)
if x == 2 and not (folder / "mended").exists():
    raise ValueError("two is broken")


def face(**about):
    display({{"text/plain": "face"}}, raw=True, metadata={{"fourfold": about}})


machine = {{"started": "2026-01-02", "processor": "a", "cores": 1, "python": "3", "versions": {{}}}}
face(kind="run", parameters={{"x": x, "seed": seed, "seeds": seeds}}, **machine)
face(kind="data", name="out", data={{"double": [2 * x]}})
"""


@pytest.fixture
def project(tmp_path):
    """A copy of the project with one chapter that takes no time."""
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("src/fourfold", "workflow"):
        shutil.copytree(records.ROOT / folder, tmp_path / folder, ignore=ignored)
    # Nothing here needs torch, which takes each of a dozen processes seconds to import.
    (tmp_path / "src/fourfold/__init__.py").write_text("")
    for folder in ("data/papers", "notebooks/optics", "sweeps", "book"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/papers/tiny.yml").write_text(RECORD)
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(CODE.format(folder=str(tmp_path))),
    ]
    about = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    node = nbformat.v4.new_notebook(cells=cells, metadata=about)
    jupytext.write(node, tmp_path / "notebooks/optics/tiny.md", fmt="md:myst")
    return tmp_path


def command(project, numbers):
    """Run a sweep over x there: what it said, and which numbers ran."""
    given = {"title": "Doubles", "chapter": "tiny", "grid": {"x": numbers}, "seed": 0, "seeds": 1}
    path = project / "sweeps" / "doubles.yml"
    path.write_text(yaml.safe_dump({**given, "measure": {"double": "out.double"}}))
    (project / "runs.txt").write_text("")
    # The copy's sources and kernel, this Python's commands.
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project / "src"),
        "JUPYTER_PATH": str(project / "workflow" / "jupyter"),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "fourfold.recorded.sweep_run", "sweeps/doubles.yml"],
        cwd=project, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ran, sorted(map(int, (project / "runs.txt").read_text().split()))


def test_a_failed_point_stops_no_other_and_is_the_only_one_that_runs_again(project):
    table = project / "data" / "sweeps" / "doubles.csv"
    ran, numbers = command(project, [2, 3])
    assert (ran.returncode, numbers) == (1, [2, 3]), ran.stderr
    assert "x = 2, seed = 0" in ran.stderr
    assert "ValueError: two is broken" in ran.stderr
    assert "x = 3" not in ran.stderr
    assert not table.exists()

    (project / "mended").touch()
    ran, numbers = command(project, [3, 2])
    assert (ran.returncode, numbers) == (0, [2]), ran.stderr
    assert [line.split(",")[1:] for line in table.read_text().splitlines()] == [
        ["x", "seed", "double"],
        ["3", "0", "6"],
        ["2", "0", "4"],
    ]
