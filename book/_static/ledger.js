/* The ledger: search, filters, and addresses that restore a view or open a claim.
   Reads ?search=&part=&paper=&verdict=&full= and #<slug>-<claim>. */
(() => {
  "use strict";
  /* A page says each claim's statement once, in its row or on its first square; other squares take it from there. */
  const entitle = () => {
    const told = new Map();
    const address = (square) => square.getAttribute("href").split("#")[1];
    for (const { id, cells } of document.querySelectorAll(".papers tbody tr")) told.set(id, cells[1].firstChild.textContent);
    for (const square of document.querySelectorAll("a.square[title]")) told.set(address(square), square.title);
    for (const square of document.querySelectorAll("a.square")) square.title = told.get(address(square)) ?? "";
  };
  document.addEventListener("DOMContentLoaded", () => {
    entitle();
    const form = document.querySelector(".ledger-controls");
    if (!form) return;
    const papers = [...document.querySelectorAll(".papers details")];
    const rows = papers.flatMap((paper) => [...paper.querySelectorAll("tbody tr")]);
    const paperOf = new Map(rows.map((row) => [row, row.closest("details")]));
    const words = (row) => {
      const paper = paperOf.get(row);
      const named = [...paper.querySelectorAll(".name, .title")].map((part) => part.textContent);
      return [paper.dataset.part, ...named, row.textContent].join(" ").toLowerCase();
    };
    const text = new Map(rows.map((row) => [row, words(row)]));
    const fields = ["search", "part", "paper", "verdict", "full"];

    const fits = (row, wanted) =>
      wanted.search.toLowerCase().split(/\s+/).every((word) => text.get(row).includes(word)) &&
      (!wanted.part || paperOf.get(row).dataset.part === wanted.part) &&
      (!wanted.paper || paperOf.get(row).dataset.paper === wanted.paper) &&
      (!wanted.verdict || row.dataset.verdict === wanted.verdict) &&
      (!wanted.full || (wanted.full === "stale" ? "stale" in row.dataset : row.dataset.full === wanted.full));

    const filter = () => {
      const wanted = Object.fromEntries(fields.map((name) => [name, form.elements[name].value.trim()]));
      const set = fields.filter((name) => wanted[name]).map((name) => [name, wanted[name]]);
      for (const row of rows) row.hidden = !fits(row, wanted);
      for (const paper of papers) {
        paper.hidden = paper.parentElement.hidden = !paper.querySelector("tbody tr:not([hidden])");
        // Who asks for more than a part wants to read; a claim that was asked for stays open.
        paper.open = !paper.hidden && (set.some(([name]) => name !== "part") || paper.querySelector("tr.asked") !== null);
      }
      for (const part of document.querySelectorAll(".papers section"))
        part.hidden = !part.querySelector("details:not([hidden])");
      const count = rows.filter((row) => !row.hidden).length;
      form.querySelector("output").textContent = `${count} of ${rows.length} claims and checks`;
      form.querySelector(".found a").href = set.length ? `?${new URLSearchParams(set)}#every-claim` : "ledger.html";
    };

    const open = () => {
      const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (!rows.includes(row)) return;
      if (row.hidden) {
        form.reset();
        filter();
      }
      paperOf.get(row).open = true;
      rows.forEach((other) => other.classList.toggle("asked", other === row));
      row.scrollIntoView({ block: "center" });
    };

    const asked = new URLSearchParams(location.search);
    for (const name of fields) if (asked.has(name)) form.elements[name].value = asked.get(name);
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(filter));
    window.addEventListener("hashchange", open);
    filter();
    open();
  });
})();
