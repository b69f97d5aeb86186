/* "Data (CSV)" in the caption of every figure: what is drawn, one row a point, made from the figure's own JSON. */
(() => {
  "use strict";
  const TYPES = {
    f8: Float64Array, f4: Float32Array, i1: Int8Array, u1: Uint8Array,
    i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array,
  };

  // Plotly writes an array as a list, or as base64 of its bytes, with a shape if it has two axes.
  const list = (value) => {
    if (!value || Array.isArray(value)) return value;
    if (value.bdata === undefined) return undefined;
    const bytes = Uint8Array.from(atob(value.bdata), (c) => c.charCodeAt(0));
    const flat = Array.from(new TYPES[value.dtype](bytes.buffer));
    if (!value.shape) return flat;
    const [rows, columns] = String(value.shape).split(",").map(Number);
    return Array.from({ length: rows }, (_, i) => flat.slice(i * columns, (i + 1) * columns));
  };

  const at = (values, start, step, i) => (values ? values[i] : (start ?? 0) + i * (step ?? 1));

  const rows = (trace, index) => {
    const name = trace.name ?? `trace ${index + 1}`;
    const [x, y, z, text] = [trace.x, trace.y, trace.z, trace.text].map(list);
    if (z && Array.isArray(z[0])) {
      return z.flatMap((line, i) => line.map((value, j) => ({
        trace: name, x: at(x, trace.x0, trace.dx, j), y: at(y, trace.y0, trace.dy, i), z: value,
      })));
    }
    const ends = (error) => (error ? list(error.array) : undefined);
    const [up, down] = [ends(trace.error_y), trace.error_y ? list(trace.error_y.arrayminus) : undefined];
    return Array.from({ length: (y ?? x ?? []).length }, (_, i) => ({
      trace: name, x: at(x, trace.x0, trace.dx, i), y: at(y, trace.y0, trace.dy, i), z: z?.[i],
      "y above": up?.[i], "y below": (down ?? up)?.[i], text: Array.isArray(text) ? text[i] : undefined,
    }));
  };

  const quoted = (value) => {
    const text = value === undefined || value === null ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  const lines = (rows) => rows.map((row) => row.map(quoted).join(",")).join("\n");

  const csv = (data) => {
    if (data[0].type === "table") {
      const columns = data[0].cells.values.map(list);
      return lines([list(data[0].header.values), ...columns[0].map((_, i) => columns.map((column) => column[i]))]);
    }
    const all = data.flatMap(rows);
    const columns = ["trace", "x", "y", "z", "y above", "y below", "text"];
    const used = columns.filter((column) => all.some((row) => row[column] !== undefined && row[column] !== null));
    return lines([used, ...all.map((row) => used.map((column) => row[column]))]);
  };

  const save = (figure) => {
    // What the reader sees: a figure with sliders holds what it last drew.
    const drawn = figure.querySelector(".plot").data ?? JSON.parse(figure.querySelector("script").textContent).data;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${csv(drawn)}\n`], { type: "text/csv" }));
    link.download = `${figure.id.replace(/^figure-/, "")}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  globalThis.fourfoldCsv = csv;
  if (globalThis.document) {
    document.addEventListener("DOMContentLoaded", () => {
      for (const figure of document.querySelectorAll("figure.fourfold:not(.still)")) {
        const button = Object.assign(document.createElement("button"), { type: "button", className: "save" });
        button.textContent = "Data (CSV)";
        button.setAttribute("aria-label", `Data of figure ${figure.id.replace(/^figure-/, "")} as CSV`);
        button.addEventListener("click", () => save(figure));
        figure.querySelector("figcaption").append(" ", button);
      }
    });
  }
})();
