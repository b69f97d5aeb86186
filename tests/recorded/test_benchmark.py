"""The benchmark room: times in turns, ratios within a turn, peak memory, a record that knows its age."""

import json
from datetime import datetime, timedelta

import pytest
import torch

from fourfold.recorded import benchmark


def test_contestants_run_in_turns_and_a_ratio_is_taken_within_a_round(monkeypatch):
    order = []
    ticks = iter([1.0, 2.0] * 2 + [3.0, 6.0, 1.0, 8.0, 2.0, 2.0])

    def timed(call, number, device):
        call()
        return next(ticks)

    monkeypatch.setattr(benchmark, "seconds", timed)
    calls = {name: lambda name=name: order.append(name) for name in ("ours", "theirs")}
    samples = benchmark.interleaved(calls, rounds=3)
    assert order == ["ours", "theirs"] * 5
    assert samples == {"ours": [3, 1, 2], "theirs": [6, 8, 2]}
    assert benchmark.ratio(samples, "theirs", "ours") == benchmark.Ratio(2, 1, 8, [2, 8, 1])
    assert str(benchmark.ratio(samples, "theirs", "ours")) == "2 (1 to 8)"


def test_a_contestant_that_does_twice_the_work_takes_about_twice_as_long():
    a = torch.randn(300, 300)
    samples = benchmark.interleaved({"once": lambda: a @ a, "twice": lambda: (a @ a, a @ a)}, rounds=9)
    assert 1.4 < benchmark.ratio(samples, "twice", "once").median < 3
    with pytest.raises(ValueError, match=r"rounds must be >= 3, .*got 2"):
        benchmark.interleaved({}, rounds=2)


def test_peak_memory_counts_what_is_alive_at_once_and_not_what_is_made_in_all():
    x = torch.ones(1000, 256)  # 1.024 MB

    def in_turn():
        for _ in range(5):
            (x * 2).sum()

    def together():
        return torch.stack([x * 2 for _ in range(5)])

    assert 1.0e6 < benchmark.peak_memory(in_turn) < 1.2e6
    assert 10.2e6 < benchmark.peak_memory(together) < 10.5e6


def test_a_record_says_where_it_was_measured_and_what_has_changed_since(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(benchmark, "SCRIPTS", tmp_path)
    assert benchmark.load("race") is None
    script = tmp_path / "race.py"
    script.write_text("from fourfold.bench4f.camera import Noise\nROUNDS = Noise, 5\n")
    path = benchmark.keep("race", [{"shape": "a", "ratio": 2.0}], threads=1)
    entry = json.loads(path.read_text())
    assert set(entry["sources"]) == {"script", "Noise", "MAX_BITS"}
    assert (entry["threads"], entry["rows"]) == (1, [{"shape": "a", "ratio": 2.0}])
    assert {"processor", "started", "versions"} <= entry.keys()
    assert benchmark.load("race")["stale"] == []
    script.write_text("from fourfold.bench4f.camera import Noise\nROUNDS = Noise, 5  # as before\n")
    assert benchmark.load("race")["stale"] == []
    script.write_text("from fourfold.bench4f.camera import Noise\nROUNDS = Noise, 6\n")
    assert benchmark.load("race")["stale"] == ["script"]


def started(path, hours):
    """The record as if it had been made so many hours before."""
    entry = json.loads(path.read_text())
    then = datetime.fromisoformat(entry["started"]) - timedelta(hours=hours)
    path.write_text(json.dumps(entry | {"started": then.isoformat()}))


def test_two_runs_an_hour_apart_are_judged_together(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(benchmark, "SCRIPTS", tmp_path)
    (tmp_path / "race.py").write_text("ROUNDS = 2\n")

    def keep(*rounds):
        rows = [{"shape": [1, 2], "ratio": {"median": rounds[0], "rounds": list(rounds)}}]
        return benchmark.keep("race", rows)

    def rounds():
        return benchmark.load("race")["rows"][0]["ratio"]["rounds"]

    path = keep(1.0, 2.0)
    assert rounds() == [1, 2]
    keep(3.0, 4.0)  # at once: it takes the other's place
    assert rounds() == [3, 4]
    started(path, 2)
    keep(5.0, 6.0)
    assert rounds() == [5, 6, 3, 4]
    assert benchmark.load("race")["rows"][0]["shape"] == [1, 2]
    keep(7.0, 8.0)  # at once: in the place of the latest, beside the same earlier one
    assert rounds() == [7, 8, 3, 4]
    started(path, 2)
    (tmp_path / "race.py").write_text("ROUNDS = 3\n")
    keep(9.0)
    assert rounds() == [9]
