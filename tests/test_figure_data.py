"""Figures as CSV: what the page's script writes is what plotly was given."""

import csv
import io
import json

import numpy as np
import plotly.graph_objects as go
import pytest
import quickjs

from fourfold.judging.records import ROOT

SCRIPT = (ROOT / "book" / "_static" / "figure_data.js").read_text(encoding="utf-8")
# What a browser has and the engine here has not.
ATOB = """
globalThis.atob = (text) => {
  const signs = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  let bits = 0, held = 0, out = "";
  for (const sign of text.replace(/=+$/, "")) {
    held = (held << 6) | signs.indexOf(sign);
    bits += 6;
    if (bits >= 8) { bits -= 8; out += String.fromCharCode((held >> bits) & 255); }
  }
  return out;
};
"""


def rows(figure):
    engine = quickjs.Context()
    engine.eval(ATOB + SCRIPT)
    text = engine.eval(f"fourfoldCsv({json.dumps(json.loads(figure.to_json())['data'])})")
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "u1"])
def test_points_come_back_whatever_plotly_packs_them_in(dtype):
    x = np.array([1, 2, 250], dtype)
    found = rows(go.Figure(go.Scatter(x=x, y=x.astype("f8") / 3, name='a, "b"')))
    assert [row["trace"] for row in found] == ['a, "b"'] * 3
    assert [float(row["x"]) for row in found] == x.tolist()
    assert [float(row["y"]) for row in found] == (x.astype("f8") / 3).tolist()


def test_a_map_has_a_row_for_every_cell():
    z = np.arange(6.0).reshape(2, 3)
    found = rows(go.Figure(go.Heatmap(z=z, x=[10, 20, 30])))
    assert [(float(r["x"]), float(r["y"]), float(r["z"])) for r in found] == [
        (x, y, z[y, i]) for y in range(2) for i, x in enumerate((10, 20, 30))
    ]
    assert len(rows(go.Figure(go.Heatmap(z=z.tolist())))) == 6


def test_a_table_is_itself():
    table = go.Table(header={"values": ["method", "error, K"]}, cells={"values": [["a", "b"], [1, 2.5]]})
    assert rows(go.Figure(table)) == [
        {"method": "a", "error, K": "1"},
        {"method": "b", "error, K": "2.5"},
    ]


def test_error_bars_and_words_go_along_and_empty_columns_do_not():
    bars = {"array": [0.1, 0.2], "arrayminus": [0.3, 0.4]}
    found = rows(go.Figure(go.Bar(x=["u", "v"], y=[1, None], error_y=bars, text=["p", "q"])))
    assert found == [
        {"trace": "trace 1", "x": "u", "y": "1", "y above": "0.1", "y below": "0.3", "text": "p"},
        {"trace": "trace 1", "x": "v", "y": "", "y above": "0.2", "y below": "0.4", "text": "q"},
    ]
    assert rows(go.Figure(go.Scatter(y=[5, 6])))[1] == {"trace": "trace 1", "x": "1", "y": "6"}
