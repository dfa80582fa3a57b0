// Values under the pointer. Without it the page says the same in its charts and their descriptions.
for (const figure of document.querySelectorAll(".chart")) {
  const svg = figure.querySelector("svg");
  const [from, to, left, right] = svg.dataset.x.split(" ").map(Number);
  const series = [...svg.querySelectorAll("[data-steps]")].map(({ dataset }) => ({
    ...dataset,
    steps: dataset.steps.split(" ").map(Number),
    values: dataset.values.split(" "),
  }));
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  line.setAttribute("class", "pointer");
  line.setAttribute("y1", 10);
  line.setAttribute("y2", 170);
  const tip = document.createElement("div");
  tip.className = "tip";
  const row = (text, colour) => {
    const div = tip.appendChild(document.createElement("div"));
    if (colour) div.appendChild(document.createElement("i")).className = `key c${colour}`;
    div.append(text);
  };
  const nearest = (steps, at) => {
    let best = 0;
    steps.forEach((step, i) => { if (Math.abs(step - at) < Math.abs(steps[best] - at)) best = i; });
    return best;
  };
  const show = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const pointed = from + ((event.clientX - box.left) * scale - left) / (right - left) * (to - from);
    const all = series.flatMap((s) => s.steps);
    const step = all[nearest(all, pointed)];
    const x = left + (step - from) / (to - from) * (right - left);
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
    tip.replaceChildren();
    row(`step ${step.toLocaleString("en")}`);
    for (const { name, colour, steps, values } of series) {
      const i = nearest(steps, step);
      if (steps[i] === step) row(`${name}: ${values[i]}`, colour);
    }
    svg.append(line);
    figure.append(tip);
    // Beside the pointer, on the side that has room.
    const room = x / scale + 14 + tip.offsetWidth < box.width;
    tip.style.left = `${room ? x / scale + 14 : Math.max(0, x / scale - 14 - tip.offsetWidth)}px`;
    tip.style.top = `${figure.offsetHeight - box.height + 6}px`;
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", () => { line.remove(); tip.remove(); });
}
