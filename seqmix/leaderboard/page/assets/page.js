// Sorting, filters, hints beside the pointer, legends, copying, the theme. Pages can be read without it.
"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const stored = (key, value) => {
    try {
      return value === undefined ? localStorage.getItem(key) : localStorage.setItem(key, value);
    } catch { // a browser that keeps nothing for files
      return null;
    }
  };

  // The theme: as the system has it, until somebody chooses.
  const themes = ["auto", "light", "dark"];
  const icons = { auto: "◐", light: "☀", dark: "☾" };
  for (const button of all(".theme")) {
    const show = () => {
      const now = root.dataset.theme || "auto";
      button.textContent = `${icons[now]} ${now[0].toUpperCase()}${now.slice(1)}`;
      button.setAttribute("aria-label", `Theme: ${now}. Change it`);
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      const next = themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % 3];
      if (next === "auto") delete root.dataset.theme;
      else root.dataset.theme = next;
      stored("seqmix-theme", next);
      show();
    });
    show();
  }

  // Sorting: every header with a button; a body is a row, or a run with its command. What has no value stays last.
  const cellOf = (body, index) => (body.rows ? body.rows[0] : body).cells[index];
  function sort(table, header, down) {
    const index = header.cellIndex;
    const bodies = table.classList.contains("runs");
    const rows = bodies ? [...table.tBodies] : [...table.tBodies[0].rows];
    const middle = table.classList.contains("mid");
    const key = row => {
      const cell = cellOf(row, index);
      if (!cell) return null;
      const value = middle && cell.dataset.m !== undefined ? cell.dataset.m : cell.dataset.v ?? cell.textContent.trim();
      const plain = value.replace(/(\d),(?=\d{3})/g, "$1");
      if (plain === "" || plain === "–") return null;
      return isNaN(plain) ? plain.toLowerCase() : Number(plain);
    };
    const keyed = rows.map((row, place) => [key(row), place, row]);
    keyed.sort(([a, i], [b, j]) => {
      if (a === null || b === null) return (a === null) - (b === null) || i - j;
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
      return (down ? -order : order) || i - j;
    });
    const parent = bodies ? table : table.tBodies[0];
    parent.append(...keyed.map(([, , row]) => row));
    for (const other of all("th[aria-sort]", table)) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const select = document.querySelector(`select[data-sorts="${table.id}"]`);
    if (select) select.value = String(index);
  }
  for (const button of all("th button")) {
    const header = button.parentElement;
    button.addEventListener("click", () => {
      const now = header.getAttribute("aria-sort");
      const first = header.dataset.first !== "up";
      sort(header.closest("table"), header, !now || now === "none" ? first : now === "ascending");
    });
  }
  for (const select of all("select[data-sorts]"))
    select.addEventListener("change", () => {
      const table = document.getElementById(select.dataset.sorts);
      const header = table.tHead.rows[0].cells[Number(select.value)];
      sort(table, header, header.dataset.first !== "up");
    });

  // Filters of the overview: words in a row, tasks that are shown, best rate or median over the rates.
  const board = document.querySelector("table.board");
  const search = document.querySelector("input[data-filters]");
  if (search) {
    const table = document.getElementById(search.dataset.filters);
    const count = document.getElementById("count");
    const apply = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        const text = (row.dataset.words || row.textContent).toLowerCase();
        row.hidden = !words.every(word => word[0] === "-" ? word.length < 2 || !text.includes(word.slice(1)) : text.includes(word));
        shown += !row.hidden;
      }
      if (count) count.textContent = words.length ? `${shown} of ${table.tBodies[0].rows.length} shown` : "";
    };
    search.addEventListener("input", apply);
    apply();
  }
  for (const box of all("input[data-column]"))
    box.addEventListener("change", () => {
      const index = Number(box.dataset.column);
      for (const row of board.rows) row.cells[index].hidden = !box.checked;
      fit();
    });
  for (const button of all("button[data-mode]"))
    button.addEventListener("click", () => {
      for (const other of all("button[data-mode]")) other.setAttribute("aria-pressed", String(other === button));
      board.classList.toggle("mid", button.dataset.mode === "mid");
      const header = board.querySelector("th[aria-sort=ascending], th[aria-sort=descending]");
      if (header) sort(board, header, header.getAttribute("aria-sort") === "descending");
    });
  document.addEventListener("click", event => {
    for (const open of all("details.columns[open]")) if (!open.contains(event.target)) open.open = false;
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape") for (const open of all("details.columns[open]")) open.open = false;
  });

  // A table that fits scrolls with the page, its header at the top of the window; others scroll by themselves.
  const fit = () => {
    for (const frame of all(".fits")) {
      frame.classList.remove("scroll");
      const wide = frame.firstElementChild.offsetWidth > frame.clientWidth;
      frame.classList.toggle("scroll", wide);
      if (wide) frame.tabIndex = 0;
      else frame.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", fit);
  fit();

  // Hints: the nearest mark of a plot, or whatever has one under the pointer or the focus.
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  document.body.append(tip);
  const hide = () => { tip.hidden = true; };
  function show(text, x, y) {
    if (!text) return hide();
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(x + 14, innerWidth - box.width - 6))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(6, y - box.height - 12) : y + 18}px`;
  }
  function nearest(plot, x, y) {
    let best = null, least = 24 ** 2;
    for (const mark of all("use[data-t]", plot)) {
      const series = mark.closest(".s");
      if (plot.closest(".dim") && series && !series.classList.contains("on")) continue;
      if (getComputedStyle(mark).visibility === "hidden") continue;
      const box = mark.getBoundingClientRect();
      const distance = (box.x + box.width / 2 - x) ** 2 + (box.y + box.height / 2 - y) ** 2;
      if (distance < least) [best, least] = [mark, distance];
    }
    return best;
  }
  let lit = null;
  function light(mark) {
    const series = mark?.closest("[data-series] .s") || null;
    if (series === lit) return;
    lit = series;
    highlight(series ? series.dataset.s : null);
  }
  document.addEventListener("pointermove", event => {
    const plot = event.target.closest?.("svg.plot");
    if (plot) {
      const mark = nearest(plot, event.clientX, event.clientY);
      light(mark);
      return show(mark?.dataset.t, event.clientX, event.clientY);
    }
    if (lit) light(null);
    const told = event.target.closest?.("[data-t]");
    if (told) show(told.dataset.t, event.clientX, event.clientY);
    else hide();
  });
  document.addEventListener("focusin", event => {
    const told = event.target.closest?.("[data-t]");
    if (!told || !event.target.matches(":focus-visible")) return hide();
    const box = told.getBoundingClientRect();
    show(told.dataset.t, box.x, box.bottom - 14);
  });
  addEventListener("scroll", hide, { passive: true });

  // Legends: pointing at a name picks its series out of every plot, pressing it keeps it.
  const legend = document.querySelector(".legend");
  const plots = document.querySelector("[data-series]");
  function highlight(hovered) {
    if (!plots) return;
    const chosen = new Set(all("button[data-s][aria-pressed=true]", legend).map(button => button.dataset.s));
    if (hovered !== null) chosen.add(hovered);
    plots.classList.toggle("dim", chosen.size > 0);
    for (const series of all(".s", plots)) series.classList.toggle("on", chosen.has(series.dataset.s));
  }
  if (legend) {
    const clear = legend.querySelector(".clear");
    for (const button of all("button[data-s]", legend)) {
      button.addEventListener("pointerenter", () => highlight(button.dataset.s));
      button.addEventListener("pointerleave", () => highlight(null));
      button.addEventListener("focus", () => highlight(button.dataset.s));
      button.addEventListener("blur", () => highlight(null));
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
        clear.hidden = !legend.querySelector("[aria-pressed=true]");
        highlight(null);
      });
    }
    clear.addEventListener("click", () => {
      for (const button of all("button[data-s]", legend)) button.setAttribute("aria-pressed", "false");
      clear.hidden = true;
      highlight(null);
    });
  }

  // Runs: a button that opens the command line, and one that copies it.
  async function copy(text, button) {
    const say = word => {
      button.textContent = word;
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    };
    try {
      await navigator.clipboard.writeText(text);
      say("Copied");
    } catch { // no clipboard for this page: select the text, Ctrl-C takes it
      const code = button.parentElement.querySelector("code");
      getSelection().selectAllChildren(code);
      say(document.execCommand("copy") ? "Copied" : "Selected");
    }
  }
  function copier(code) {
    const button = document.createElement("button");
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", () => copy(code.textContent, button));
    code.before(button);
  }
  // What the command lines of a table have in common stands on the table, once.
  for (const body of all("table.runs tbody")) {
    const line = body.querySelector("tr.cmd");
    const code = line.querySelector("code");
    const { before, after } = body.parentElement.dataset;
    code.textContent = before + code.textContent + after;
    const button = document.createElement("button");
    button.className = "open-it";
    button.textContent = "Command";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const open = body.classList.toggle("open");
      button.setAttribute("aria-expanded", String(open));
      if (!open || line.querySelector("button")) return;
      copier(code);
      const note = document.createElement("small");
      note.textContent = `run ${body.id}`;
      code.after(note);
    });
    body.querySelector("td.go").append(button);
  }
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  target?.querySelector?.(".open-it")?.click();
})();
