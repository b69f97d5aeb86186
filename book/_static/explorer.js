/* The attention explorer: the reader points at a cell (mouse, finger or keyboard) and sees where it looks. */
(() => {
  "use strict";
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  const picture = (pixels, width) => {
    const canvas = element("canvas", { width, height: pixels.length / width });
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    pixels.forEach((grey, i) => image.data.set([grey, grey, grey, 255], 4 * i));
    context.putImageData(image, 0, 0);
    canvas.setAttribute("aria-hidden", "true");
    return canvas;
  };

  const choice = (name, options) => {
    const select = element("select", { name }, ...options.map(([value, text]) => new Option(text, value)));
    return element("label", {}, `${name} `, select);
  };

  const explore = (figure) => {
    const { maps, pictures, width, columns, notes } = JSON.parse(figure.querySelector("script").textContent);
    const variants = Object.keys(maps);
    const layers = maps[variants[0]][0];
    const counted = (n, word) => Array.from({ length: n }, (_, i) => [i, `${word} ${i + 1}`]);
    const choices = element("form", { className: "choices" },
      choice("Variant", variants.map((v) => [v, v])),
      choice("Sample", counted(pictures.length, "sample")),
      choice("Layer", counted(layers.length, "layer")),
      choice("Head", [...counted(layers[0].length, "head"), ["mean", "mean of heads"]]));
    const board = element("div", { className: "board" });
    board.style.setProperty("--columns", columns);
    const said = element("output", { className: "finding" });
    said.setAttribute("aria-live", "polite");
    figure.querySelector(".stage").append(choices, board, said);

    let query = 0; // CLS; cell i is token i + 1
    const token = (i, sample) =>
      i === 0 ? "CLS" : `cell ${i}${notes[sample][i - 1] ? ` (${notes[sample][i - 1]})` : ""}`;

    const shares = () => {
      const heads = maps[choices.Variant.value][choices.Sample.value][choices.Layer.value];
      if (choices.Head.value !== "mean") return heads[choices.Head.value][query];
      return heads[0][query].map((_, j) => Math.round(heads.reduce((sum, h) => sum + h[query][j], 0) / heads.length));
    };

    const show = () => {
      const sample = Number(choices.Sample.value);
      const looks = shares();
      board.querySelectorAll("button").forEach((button, i) => {
        button.style.setProperty("--share", looks[i] / 100);
        button.setAttribute("aria-pressed", String(i === query));
        button.setAttribute("aria-label", `${token(i, sample)}: gets ${looks[i]} %`);
        button.querySelector(".share").textContent = `${looks[i]} %`;
      });
      const most = looks.indexOf(Math.max(...looks));
      const speaker = token(query, sample);
      said.textContent = `${speaker[0].toUpperCase()}${speaker.slice(1)} looks most at ` +
        `${most === query ? "itself" : token(most, sample)}: ${looks[most]} % of its attention.`;
    };

    const lay = () => {
      const sample = Number(choices.Sample.value);
      const cell = (i) => {
        const button = element("button", { type: "button" });
        button.append(i === 0 ? element("span", { className: "cls", textContent: "CLS" })
          : picture(pictures[sample][i - 1], width));
        if (i && notes[sample][i - 1]) {
          button.append(element("span", { className: "note", textContent: notes[sample][i - 1] }));
        }
        button.append(element("span", { className: "share" }));
        const point = () => { query = i; show(); };
        for (const event of ["pointerenter", "focus", "click"]) button.addEventListener(event, point);
        return button;
      };
      board.replaceChildren(...Array.from({ length: pictures[sample].length + 1 }, (_, i) => cell(i)));
      show();
    };

    choices.addEventListener("input", (event) => (event.target.name === "Sample" ? lay() : show()));
    lay();
  };

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("figure.explorer").forEach(explore));
})();
