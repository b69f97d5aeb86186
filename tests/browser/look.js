/* What the tests see in a page: functions that answer with what is wrong, in words. */
globalThis.look = (() => {
  "use strict";

  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

  const name = (element) => {
    const words = element.id ? `#${element.id}` : [...element.classList].map((word) => `.${word}`).join("");
    return `${element.tagName.toLowerCase()}${words} "${element.textContent.trim().slice(0, 40)}"`;
  };

  const seen = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });

  const idle = (element) => element.matches(":disabled, [aria-disabled=true]");

  /* "rgb(…)" as red, green, blue, alpha. */
  const numbers = (colour) => {
    const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
    return [red, green, blue, alpha];
  };

  const luminance = (colour) => {
    const [red, green, blue] = colour.map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };

  const over = (upper, lower) => upper.slice(0, 3).map((part, i) => upper[3] * part + (1 - upper[3]) * lower[i]);

  const ground = (element) => {
    if (!element) return [255, 255, 255];
    const colour = numbers(getComputedStyle(element).backgroundColor);
    return colour[3] === 1 ? colour.slice(0, 3) : over(colour, ground(element.parentElement));
  };

  /* The ratio of WCAG between a text's colour and what lies behind it. */
  const contrast = (element, property) => {
    const behind = ground(element);
    const colours = [over(numbers(getComputedStyle(element)[property]), behind), behind];
    const [low, high] = colours.map(luminance).sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };

  const enough = (element) => {
    const { fontSize, fontWeight } = getComputedStyle(element);
    return parseFloat(fontSize) >= (fontWeight >= 700 ? 18.66 : 24) ? 3 : 4.5;
  };

  const faint = (elements, property = "color") =>
    elements
      .map((one) => [one, contrast(one, property)])
      .filter(([one, ratio]) => ratio < enough(one))
      .map(([one, ratio]) => `${name(one)} ${ratio.toFixed(1)}`);

  /* Go to every figure, as a reader scrolls, and look at what is drawn there. */
  const figures = async () => {
    const wrong = [];
    for (const figure of document.querySelectorAll("figure.fourfold")) {
      figure.scrollIntoView({ block: "center" });
      await frame();
      const svg = figure.querySelector(".drawing svg[role=img]");
      if (!svg) {
        wrong.push(`${figure.id} is not drawn`);
        continue;
      }
      const marks = [...svg.querySelectorAll("path, use, image")].filter((mark) => !mark.closest("defs, clipPath"));
      if (!marks.some((mark) => mark.getBBox().width + mark.getBBox().height > 0)) wrong.push(`${figure.id} is empty`);
      // A letter may reach over the drawing's edge into the space around it.
      const room = parseFloat(getComputedStyle(svg.parentElement).paddingTop);
      const { left, right, top, bottom } = svg.getBoundingClientRect();
      const words = [...svg.querySelectorAll("text")];
      for (const word of words) {
        const place = word.getBoundingClientRect();
        const out = Math.max(left - place.left, place.right - right, top - place.top, place.bottom - bottom);
        if (place.width && out > room) wrong.push(`${figure.id}: ${name(word)} is cut off`);
      }
      const ink = words.filter((word) => getComputedStyle(word).fill === getComputedStyle(svg).color);
      wrong.push(...faint(ink, "fill").map((text) => `${figure.id}: ${text}`));
    }
    scrollTo(0, 0);
    return wrong;
  };

  /* Every text that is seen and not switched off, and one word of each colour that code is printed in, also where code is folded. */
  const texts = () => {
    const words = [...document.querySelectorAll("body :not(pre *, svg, svg *, mjx-container *, script, style)")].filter(
      (one) => [...one.childNodes].some(({ nodeType, data }) => nodeType === Node.TEXT_NODE && data.trim()) && seen(one) && !idle(one),
    );
    const code = new Map([...document.querySelectorAll("pre span[class]")].map((word) => [word.className, word]));
    return faint([...words, ...code.values()]);
  };

  const math = () => {
    const wrong = [...document.querySelectorAll(".math")]
      .filter((one) => one.querySelectorAll("mjx-container").length !== 1)
      .map((one) => `not typeset: ${name(one)}`);
    wrong.push(...[...document.querySelectorAll("mjx-merror")].map((one) => `error: ${name(one)}`));
    const texts = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const { parentElement, data } = texts.currentNode;
      if (/\\[([]|\\begin\{|\$[^$\s][^$]*\$/.test(data) && !parentElement.closest("pre, code, script, style"))
        wrong.push(`left as typed: ${data.trim().slice(0, 60)}`);
    }
    return wrong;
  };

  /* What reaches out of the window and cannot be scrolled to in a box of its own. */
  const overflow = () => {
    const width = document.documentElement.clientWidth;
    const boxed = (element) => {
      for (let at = element.parentElement; at && at !== document.body; at = at.parentElement)
        if (getComputedStyle(at).overflowX !== "visible") return true;
      return false;
    };
    const wrong = [...document.querySelectorAll("body *")]
      .filter((one) => {
        const { left, right, width: own } = one.getBoundingClientRect();
        return own > 0 && (right > width + 1 || left < -1) && seen(one) && !boxed(one);
      })
      .map((one) => `${name(one)} reaches from ${one.getBoundingClientRect().left} to ${one.getBoundingClientRect().right}`);
    for (const formula of document.querySelectorAll("span.math"))
      if (formula.querySelector("mjx-math")?.getBoundingClientRect().width > formula.clientWidth + 1) wrong.push(`${name(formula)} is cut`);
    if (document.documentElement.scrollWidth > width) wrong.push(`the page is ${document.documentElement.scrollWidth} wide`);
    return wrong;
  };

  /* What a mouse can work and the tab key never comes to. */
  const unreachable = () =>
    [...document.querySelectorAll("input, select, button, summary, a[href], [role=button]")]
      .filter((one) => seen(one) && one.tabIndex < 0 && !idle(one))
      .map(name);

  /* Take away what axe cannot judge or what was looked at above, so that axe is quick: a figure is one image with a
     text for those who do not see it, and axe takes `color` for the colour of the text inside, which is `fill`; of
     mathematics the spoken half stays. Nothing is drawn again afterwards. */
  const strip = () => {
    for (const drawn of document.querySelectorAll("figure svg, mjx-math")) drawn.replaceChildren();
    for (const folded of document.querySelectorAll("details:not([open]) > :not(summary)")) folded.remove();
    for (const block of document.querySelectorAll("pre")) block.textContent = "code";
  };

  const axe = async (options) => {
    const { violations } = await globalThis.axe.run(document, { resultTypes: ["violations"], preload: false, ...options });
    return violations
      .filter(({ id, impact }) => ["serious", "critical"].includes(impact) || ["heading-order", "region"].includes(id))
      .map(({ id, nodes }) => `${id}: ${nodes.map(({ target, failureSummary }) => `${target} ${failureSummary}`).join("; ")}`);
  };

  const theme = async (word) => {
    document.documentElement.dataset.theme = word;
    await frame();
  };

  return { axe, figures, frame, math, overflow, strip, texts, theme, unreachable };
})();
