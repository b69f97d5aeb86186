/* The ledger's table: search, filters, sorting, and addresses that restore a view or open a claim.
   Reads ?search=&part=&paper=&verdict=&full= and #<slug>-<claim>. */
(() => {
  "use strict";
  document.addEventListener("DOMContentLoaded", () => {
    const table = document.querySelector("table.ledger");
    if (!table) return;
    const form = document.querySelector(".ledger-controls");
    const rows = [...table.tBodies[0].rows];
    const text = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const fields = ["search", "part", "paper", "verdict", "full"];

    const fits = (row, wanted) =>
      wanted.search.toLowerCase().split(/\s+/).every((word) => text.get(row).includes(word)) &&
      (!wanted.part || row.dataset.part === wanted.part) &&
      (!wanted.paper || row.dataset.paper === wanted.paper) &&
      (!wanted.verdict || row.dataset.verdict === wanted.verdict) &&
      (!wanted.full || (wanted.full === "stale" ? "stale" in row.dataset : row.dataset.full === wanted.full));

    const filter = () => {
      const wanted = Object.fromEntries(fields.map((name) => [name, form.elements[name].value.trim()]));
      let count = 0;
      for (const row of rows) {
        row.hidden = !fits(row, wanted);
        count += !row.hidden;
      }
      form.querySelector("output").textContent = `${count} of ${rows.length} claims`;
      const set = fields.filter((name) => wanted[name]).map((name) => [name, wanted[name]]);
      form.querySelector(".found a").href = set.length ? `?${new URLSearchParams(set)}#every-claim` : "ledger.html";
    };

    const compare = new Intl.Collator("en", { numeric: true }).compare;
    const sort = (heading) => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[heading.cellIndex].textContent;
      const sorted = [...rows].sort((a, b) => (down ? -1 : 1) * compare(key(a), key(b)));
      table.tBodies[0].append(...sorted);
    };

    const open = () => {
      const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (!rows.includes(row)) return;
      if (row.hidden) {
        form.reset();
        filter();
      }
      rows.forEach((other) => other.classList.toggle("asked", other === row));
      row.scrollIntoView({ block: "center" });
    };

    const asked = new URLSearchParams(location.search);
    for (const name of fields) if (asked.has(name)) form.elements[name].value = asked.get(name);
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(filter));
    table.tHead.addEventListener("click", (event) => {
      if (event.target.closest("button")) sort(event.target.closest("th"));
    });
    window.addEventListener("hashchange", open);
    filter();
    open();
  });
})();
