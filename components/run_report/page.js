// Values under the pointer of a chart; pictures at full size. Without this script the page shows all else.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function follow(figure) {
  const svg = figure.querySelector("svg"), at = figure.querySelector(".at");
  const quoted = [...figure.querySelectorAll(".key i")].map((key) => [key, key.textContent]);
  const curves = [...svg.querySelectorAll(".curve")].map((line) => ({
    points: line.getAttribute("points").split(" ").map((point) => point.split(",").map(Number)),
    steps: line.dataset.steps.split(" "),
    values: line.dataset.values.split(" "),
    kind: line.getAttribute("class").split(" ")[1],
  }));
  const dots = curves.map((curve) => {
    const dot = svg.appendChild(document.createElementNS(SVG, "circle"));
    dot.setAttribute("class", `mark dot ${curve.kind}`);
    dot.setAttribute("r", 3.5);
    return dot;
  });
  const longest = curves.reduce((a, b) => (b.points.length > a.points.length ? b : a));
  let place = longest.points.length - 1;

  const nearest = (curve, x) =>
    curve.points.reduce((best, point, i) => (Math.abs(point[0] - x) < Math.abs(curve.points[best][0] - x) ? i : best), 0);

  function show(index) {
    place = index;
    curves.forEach((curve, i) => {
      const near = curve === longest ? place : nearest(curve, longest.points[place][0]);
      quoted[i][0].textContent = curve.values[near];
      dots[i].setAttribute("cx", curve.points[near][0]);
      dots[i].setAttribute("cy", curve.points[near][1]);
    });
    at.textContent = `at ${longest.steps[place]} ${svg.dataset.over}`;
    figure.classList.add("pointed");
  }

  function hide() {
    quoted.forEach(([key, text]) => (key.textContent = text));
    at.textContent = "";
    figure.classList.remove("pointed");
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(nearest(longest, ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width));
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(Math.min(Math.max(place + step, 0), longest.points.length - 1));
  });
}

function enlarge(dialog) {
  const [large, words] = [dialog.querySelector("img"), dialog.querySelector("p")];
  const buttons = [...document.querySelectorAll(".picture button")];
  let current = 0;

  function show(index) {
    current = (index + buttons.length) % buttons.length;
    const picture = buttons[current].querySelector("img");
    large.src = picture.src;
    large.alt = picture.alt;
    words.textContent = picture.alt;
  }

  buttons.forEach((button, index) =>
    button.addEventListener("click", () => {
      show(index);
      dialog.showModal();
    }),
  );
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) show(current + step);
  });
  // Beside the picture.
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => buttons[current].focus());
}

document.querySelectorAll("figure.chart").forEach(follow);
document.querySelectorAll("dialog.enlarged").forEach(enlarge);
