/* Draw the figures of a page: their data is in the page, plotly is the book's one copy, colours are the theme's.
   A figure with sliders is drawn as fourfoldFigures[name].view(spec, data, state, width) answers; other scripts of
   this folder register these functions. The sliders hold the state, so every redraw keeps it. */
(() => {
  "use strict";
  const root = document.documentElement;

  const themed = () => {
    const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
    const [text, line] = [colour("--pst-color-text-base"), colour("--pst-color-border")];
    return { text, line };
  };

  const dress = (layout) => {
    const { text, line } = themed();
    const dressed = { ...layout, font: { ...layout.font, color: text } };
    for (const key of Object.keys(layout).filter((k) => /^[xy]axis\d*$/.test(k)).concat("xaxis", "yaxis")) {
      dressed[key] = { ...layout[key], gridcolor: line, linecolor: text, tickcolor: text };
    }
    return dressed;
  };

  const sliders = (figure) => figure.querySelectorAll(".controls input");

  const steered = (figure, spec, width) => {
    const { controls, data } = JSON.parse(figure.querySelector("script.interactive").textContent);
    const state = {};
    for (const slider of sliders(figure)) {
      const { values, texts } = controls[slider.name];
      state[slider.name] = values[slider.value];
      slider.setAttribute("aria-valuetext", texts[slider.value]);
      slider.nextElementSibling.textContent = texts[slider.value];
    }
    const name = figure.id.replace(/^figure-/, "");
    const { finding, ...drawn } = globalThis.fourfoldFigures[name].view(spec, data, state, width);
    const said = figure.querySelector(".finding");
    if (said.textContent !== finding) said.textContent = finding;
    return drawn;
  };

  const widths = new WeakMap();
  const draw = (figure) => {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const plot = figure.querySelector(".plot");
    const width = plot.clientWidth;
    widths.set(plot, width);
    const { data, layout } = sliders(figure).length ? steered(figure, spec, width) : spec;
    window.Plotly.react(plot, data, { ...dress(layout), width }, { displayModeBar: false });
  };

  // A figure is drawn when it comes near the window, so a long chapter opens at once; its place is kept free.
  const near = new Set();
  const stale = new Set();
  const settle = () => {
    for (const figure of [...stale].filter((one) => near.has(one))) {
      stale.delete(figure);
      draw(figure);
    }
  };
  // Once a frame, however fast a slider is dragged.
  let waiting = false;
  const drawSoon = (figure) => {
    stale.add(figure);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      settle();
    });
  };

  const start = (figures) => {
    const all = (then) => () => {
      figures.forEach((figure) => stale.add(figure));
      then();
    };
    const approach = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) near[isIntersecting ? "add" : "delete"](target);
        settle();
      },
      { rootMargin: "100% 0px" },
    );
    // At once, in the frame that changed the width: plotly's own resize comes a tenth of a second late.
    const fit = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        const figure = target.closest("figure");
        const width = target.clientWidth;
        // It also reports when it begins to observe, and when only the height changed.
        if (stale.has(figure) || width === widths.get(target)) continue;
        // Sliders' figures may place their panels by the width, and so change the height: in the next frame.
        if (sliders(figure).length || !near.has(figure)) drawSoon(figure);
        else {
          widths.set(target, width);
          window.Plotly.relayout(target, { width });
        }
      }
    });
    for (const figure of figures) {
      stale.add(figure);
      approach.observe(figure);
      fit.observe(figure.querySelector(".plot"));
      sliders(figure).forEach((slider) => slider.addEventListener("input", () => drawSoon(figure)));
    }
    new MutationObserver(all(settle)).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
    window.addEventListener("beforeprint", all(() => figures.forEach(draw)));
    window.addEventListener("afterprint", all(settle));
  };

  document.addEventListener("DOMContentLoaded", () => {
    const figures = document.querySelectorAll("figure.fourfold:not(.still)");
    if (!figures.length) return;
    const script = document.createElement("script");
    script.src = `${root.dataset.content_root}plotly.min.js`;
    script.onload = () => start(figures);
    document.head.append(script);
  });
})();

/* What holds on every page, figures or not. */
(() => {
  "use strict";
  const root = document.documentElement;

  // Before the first paint; the theme's own script comes to it after the last line of the page.
  if (!["light", "dark"].includes(root.dataset.theme)) {
    root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }

  // From a file a browser does not let a page read another one, so the search page shows titles alone.
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

  // Paper is white and has its own width; the style sheet gives figures that width, and they are drawn for it.
  let theme;
  window.addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    root.classList.add("printing");
  });
  window.addEventListener("afterprint", () => {
    root.dataset.theme = theme;
    root.classList.remove("printing");
  });

  document.addEventListener("DOMContentLoaded", () => {
    // A list of works has items; Sphinx gives them a role that was dropped and that no list may hold.
    for (const item of document.querySelectorAll("[role=doc-biblioentry]")) item.setAttribute("role", "listitem");

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
