/* Figures with sliders: Python drew them, as they are without a script. The function registered under a figure's
   name says where the parts of its drawing stand for what the sliders say; here they are put there. */
(() => {
  "use strict";
  const steer = (figure) => {
    const name = figure.id.replace(/^figure-/, "");
    const { controls, data } = JSON.parse(figure.querySelector("script.interactive").textContent);
    const sliders = figure.querySelectorAll(".controls input");
    const said = figure.querySelector(".finding");
    const part = (id, what) => document.getElementById(`${name}-${id}`).querySelector(what);
    const move = () => {
      const state = {};
      for (const slider of sliders) {
        const { values, texts } = controls[slider.name];
        state[slider.name] = values[slider.value];
        slider.setAttribute("aria-valuetext", texts[slider.value]);
        slider.nextElementSibling.textContent = texts[slider.value];
      }
      const { paths, points, texts, finding } = globalThis.fourfoldFigures[name].view(data, state);
      for (const [id, path] of Object.entries(paths)) part(id, "path").setAttribute("d", path);
      for (const [id, [x, y]] of Object.entries(points)) {
        part(id, "use").setAttribute("x", x);
        part(id, "use").setAttribute("y", y);
      }
      for (const [id, text] of Object.entries(texts)) part(id, "text").textContent = text;
      if (said.textContent !== finding) said.textContent = finding;
    };
    // Once a frame, however fast a slider is dragged.
    let waiting = false;
    const moveSoon = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        move();
      });
    };
    sliders.forEach((slider) => slider.addEventListener("input", moveSoon));
    move();
  };

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("figure.fourfold:has(.controls)").forEach(steer);
  });
})();

/* What holds on every page. */
(() => {
  "use strict";
  const root = document.documentElement;

  // Before the first paint; the theme's own script comes to it after the last line of the page.
  if (!["light", "dark"].includes(root.dataset.theme)) {
    root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }

  // From a file a browser does not let a page read another one, so the search page shows titles alone.
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

  // Paper is white, and has the parameters and the line that reruns the page.
  let theme, unfolded;
  window.addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    unfolded = document.querySelectorAll("details.rerun:not([open])");
    unfolded.forEach((one) => (one.open = true));
  });
  window.addEventListener("afterprint", () => {
    root.dataset.theme = theme;
    unfolded.forEach((one) => (one.open = false));
  });

  document.addEventListener("DOMContentLoaded", () => {
    // A list of works has items; Sphinx gives them a role that was dropped and that no list may hold.
    for (const item of document.querySelectorAll("[role=doc-biblioentry]")) item.setAttribute("role", "listitem");

    // The theme's arrows in the contents have no name.
    for (const arrow of document.querySelectorAll(".toctree-l1 > details > summary")) {
      arrow.setAttribute("aria-label", `Chapters of ${arrow.closest("li").querySelector("a").textContent.trim()}`);
    }

    // What scrolls sideways must be reached without a mouse.
    const boxes = document.querySelectorAll(".scroll, .cell_output .output, .cell_output .output > div");
    const reach = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
        else target.removeAttribute("tabindex");
      }
    });
    boxes.forEach((box) => reach.observe(box));
  });
})();
