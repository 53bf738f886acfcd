"use strict";
(() => {
  const all = (what, within = document) => [...within.querySelectorAll(what)];

  // What is pointed at, focused or touched says what it is.
  const tip = document.getElementById("tip");
  const show = (target, x, y) => {
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = (y + 18 + box.height > innerHeight ? Math.max(8, y - box.height - 12) : y + 18) + "px";
  };
  const linked = (target, on) => {
    const link = target.dataset.link;
    const graph = target.closest(".graph");
    if (link && graph) all(".node", graph).forEach((n) => n.dataset.link === link && n.classList.toggle("lit", on));
  };
  const holder = (event) => event.target.closest && event.target.closest("[data-tip]");
  let over = null;
  const leave = () => { if (over) linked(over, false); over = null; tip.hidden = true; };
  document.addEventListener("pointermove", (event) => {
    const target = holder(event);
    if (target !== over) { leave(); over = target; if (target) linked(target, true); }
    if (target) show(target, event.clientX, event.clientY);
  });
  document.addEventListener("pointerdown", (event) => {
    const target = holder(event);
    leave();
    if (target) { over = target; linked(target, true); show(target, event.clientX, event.clientY); }
  });
  document.addEventListener("focusin", (event) => {
    const target = holder(event);
    if (!target || !target.matches(":focus-visible")) return;
    const box = target.getBoundingClientRect();
    show(target, box.left, box.bottom);
  });
  document.addEventListener("focusout", leave);
  addEventListener("scroll", leave, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") leave(); });

  // Tables sort by the number in data-sort, else by their text.
  const keyOf = (cell) => cell.dataset.sort === undefined ? cell.textContent.trim() : Number(cell.dataset.sort);
  const byKey = (a, b) => typeof a === "number" && typeof b === "number"
    ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  all("table").forEach((table) => all("thead th", table).forEach((head, column, heads) => {
    head.firstElementChild.addEventListener("click", () => {
      const numeric = table.tBodies[0].rows[0]?.cells[column].dataset.sort !== undefined;
      const now = head.getAttribute("aria-sort");
      const order = now ? (now === "ascending" ? "descending" : "ascending") : numeric ? "descending" : "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => sign * byKey(keyOf(a.cells[column]), keyOf(b.cells[column])));
      table.tBodies[0].append(...rows);
    });
  }));

  // A dot of the trade-off puts its budget into the command.
  all("#tradeoff figure").forEach((figure) => {
    const copy = figure.querySelector(".copy");
    const code = copy.querySelector("code");
    const pick = (dot) => {
      all(".picked", figure).forEach((one) => one.classList.remove("picked"));
      all(`[data-budget="${dot.dataset.budget}"]`, figure).forEach((one) => one.classList.add("picked"));
      code.textContent = copy.dataset.command.replaceAll("{R}", dot.dataset.budget);
    };
    all("[data-budget]", figure).forEach((dot) => {
      dot.addEventListener("click", () => pick(dot));
      dot.addEventListener("keydown", (event) => { if (event.key === "Enter") pick(dot); });
    });
    const button = copy.querySelector("button");
    button.addEventListener("click", async () => {
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      // Pages from a file may not write to the clipboard; then the text is selected at least.
      try { await navigator.clipboard.writeText(code.textContent); button.textContent = "copied"; }
      catch { button.textContent = "selected"; }
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  });

  // A drawn network is moved and zoomed by its viewBox; it opens at the first change.
  const viewer = (canvas) => {
    const graph = canvas.querySelector(".graph");
    const heads = graph.querySelector(".heads");
    const whole = { w: Number(graph.dataset.width), h: Number(graph.dataset.height) };
    const view = { x: 0, y: 0, w: whole.w };
    const topOf = (node) => Number(node.querySelector("rect").getAttribute("y"));
    const changes = [...new Set(all(".split", graph).map(topOf))].sort((a, b) => a - b);
    const scale = () => view.w / Math.max(graph.clientWidth, 1);
    const height = () => graph.clientHeight * scale();
    const above = 44;
    const draw = () => {
      const room = { x: whole.w * 0.5, y: whole.h * 0.5 };
      view.x = Math.max(-room.x, Math.min(view.x, whole.w - view.w + room.x));
      view.y = Math.max(-room.y, Math.min(view.y, Math.max(whole.h - height(), 0) + room.y));
      graph.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${height()}`);
      heads.setAttribute("transform", `translate(0 ${view.y})`);
    };
    const widest = () => Math.max(whole.w, whole.h * graph.clientWidth / Math.max(graph.clientHeight, 1));
    const zoom = (factor, px = graph.clientWidth / 2, py = graph.clientHeight / 2) => {
      const before = scale();
      view.w = Math.min(Math.max(view.w * factor, 200), widest() * 1.5);
      view.x += px * (before - scale());
      view.y += py * (before - scale());
      draw();
    };
    const center = () => { view.x = (whole.w - view.w) / 2; };
    const fit = {
      in: () => zoom(0.75),
      out: () => zoom(1 / 0.75),
      // Text stays as large as it is drawn, and no smaller than two thirds of that.
      width: () => {
        view.w = Math.max(Math.min(whole.w, 1.5 * graph.clientWidth), graph.clientWidth);
        center();
        draw();
      },
      all: () => { view.w = widest(); center(); view.y = 0; draw(); },
    };
    all("[data-zoom]", canvas).forEach((button) => button.addEventListener("click", () => fit[button.dataset.zoom]()));

    const said = canvas.querySelector("output");
    const go = (top) => { view.y = top - above; draw(); };
    let change = 0;
    all("[data-step]", canvas).forEach((button) => button.addEventListener("click", () => {
      change = (change + Number(button.dataset.step) + changes.length) % changes.length;
      go(changes[change]);
      said.textContent = `${change + 1} of ${changes.length}`;
    }));
    const search = canvas.querySelector("input");
    const names = (node) => (node.dataset.names || node.dataset.tip.split("\n")[0]).toLowerCase();
    let match = -1;
    const find = (step) => {
      all(".match", graph).forEach((node) => node.classList.remove("match"));
      const wanted = search.value.trim().toLowerCase();
      const found = wanted ? all(".node", graph).filter((node) => names(node).includes(wanted)) : [];
      found.sort((a, b) => topOf(a) - topOf(b));
      const links = [...new Set(found.map((node) => node.dataset.link))];
      match = links.length ? (match + step + links.length) % links.length : -1;
      said.textContent = wanted ? (links.length ? `${match + 1} of ${links.length}` : "no such layer") : "";
      const matched = found.filter((node) => node.dataset.link === links[match]);
      matched.forEach((node) => node.classList.add("match"));
      if (matched.length) go(topOf(matched[0]));
    };
    search.addEventListener("input", () => { match = -1; find(1); });
    search.addEventListener("keydown", (event) => { if (event.key === "Enter") find(event.shiftKey ? -1 : 1); });

    graph.addEventListener("wheel", (event) => {
      if (document.activeElement !== graph && !event.ctrlKey) return;
      event.preventDefault();
      const box = graph.getBoundingClientRect();
      zoom(Math.exp(event.deltaY * 0.0015), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    // One finger scrolls the page, and moves the drawing sideways; two move and zoom it.
    graph.addEventListener("touchmove", (event) => { if (event.touches.length > 1) event.preventDefault(); }, { passive: false });
    const fingers = new Map();
    graph.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, event);
      graph.setPointerCapture(event.pointerId);
      graph.classList.add("moving");
      graph.focus({ preventScroll: true });
    });
    graph.addEventListener("pointermove", (event) => {
      const last = fingers.get(event.pointerId);
      if (!last) return;
      const others = [...fingers.values()].filter((one) => one.pointerId !== event.pointerId);
      if (others.length === 1) {
        const apart = (one) => Math.hypot(one.clientX - others[0].clientX, one.clientY - others[0].clientY);
        const box = graph.getBoundingClientRect();
        zoom(apart(last) / Math.max(apart(event), 1), others[0].clientX - box.left, others[0].clientY - box.top);
      }
      const share = others.length ? 0.5 : 1;
      view.x -= (event.clientX - last.clientX) * scale() * share;
      if (others.length || event.pointerType !== "touch") view.y -= (event.clientY - last.clientY) * scale() * share;
      draw();
      fingers.set(event.pointerId, event);
    });
    const lift = (event) => { fingers.delete(event.pointerId); if (!fingers.size) graph.classList.remove("moving"); };
    ["pointerup", "pointercancel"].forEach((name) => graph.addEventListener(name, lift));
    graph.addEventListener("keydown", (event) => {
      const step = view.w / 10;
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
      if (event.key === "+") zoom(0.75);
      else if (event.key === "-") zoom(1 / 0.75);
      else if (moves[event.key]) { view.x += moves[event.key][0]; view.y += moves[event.key][1]; draw(); }
      else return;
      event.preventDefault();
    });
    // What is folded away has no size yet.
    let width = 0;
    new ResizeObserver(() => {
      const opened = !width;
      if (graph.clientWidth === width) return;
      width = graph.clientWidth;
      if (!width) return;
      if (opened) { fit.width(); go(changes[0]); } else draw();
    }).observe(graph);
  };
  all(".canvas").forEach(viewer);
})();
