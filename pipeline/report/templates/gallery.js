"use strict";
// What the report and the comparison share: the data in the page, the gallery, its address, and the dialog's frame.
// The state is kept in the address after the #, so that links, the back button and a reload all lead to the same view.

const PAGE = 60;
const read = (id) => JSON.parse(document.getElementById(id)?.textContent ?? "null");
const webp = (data) => `data:image/webp;base64,${data}`;
const percent = (value, digits = 0) => (value == null ? "–" : `${(100 * value).toFixed(digits)} %`);
const figure = (value) => (value == null ? "–" : value.toFixed(3));

/** An element with properties, and children that are elements or text. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** A coloured layer that is seen where the mask is. */
function stencil(data, kind = "") {
  const layer = make("i", { className: `stencil ${kind}` });
  layer.style.maskImage = layer.style.webkitMaskImage = `url(${webp(data)})`;
  return layer;
}

/** Thumbnails lie in the page in bundles, each of which is only read when one of its photos is shown. */
const bundles = new Map();
function thumbnail(n, perBundle) {
  const bundle = Math.floor(n / perBundle);
  if (!bundles.has(bundle)) bundles.set(bundle, read(`thumbs-${bundle}`) ?? []);
  return bundles.get(bundle)[n % perBundle] ?? [];
}

/** The state, from an address. */
const state = (address = location.hash) => Object.fromEntries(new URLSearchParams(address.slice(1)));

/** Change the state; what is empty leaves the address. Filters begin again at the first page. */
function go(changes, replace = true) {
  const next = { ...state(), ...changes };
  const filled = Object.entries(next).filter(([, value]) => value !== "" && value != null);
  const address = `#${new URLSearchParams(filled)}`;
  if (address === (location.hash || "#")) return;
  if (replace) { history.replaceState(null, "", address); window.dispatchEvent(new HashChangeEvent("hashchange")); }
  else location.hash = address;
}

const within = (range, value) => {
  if (!range) return true;
  const [low, high] = range.split("-").map(Number);
  return value != null && value >= low && (value < high || high >= 1 || low === high) && value <= high;
};

/**
 * The gallery.
 *   count: how many photos there are
 *   keep(n, state): whether the filters let a photo through
 *   orders: sorting keys by name; photos without a key come last
 *   card(n, now): the inside of a photo's button
 *   previews: how many of its photos a link to look at first shows
 *   open(n, shown): fills the dialog; `shown` is the list that it can be leafed through
 */
function gallery({ count, keep, orders, card, open, previews = 5 }) {
  const form = document.getElementById("filters");
  const grid = document.getElementById("grid");
  const dialog = document.getElementById("photo");
  const all = Array.from({ length: count }, (_, n) => n);
  let shown = all;
  let key = null;

  function choose(now) {
    const kept = all.filter((n) => keep(n, now));
    const order = orders[now.sort];
    if (!order) return kept;
    const keys = new Map(kept.map((n) => [n, order(n)]));
    const place = (n) => (keys.get(n) == null || Number.isNaN(keys.get(n)) ? Infinity : keys.get(n));
    return kept.sort((a, b) => (place(a) === place(b) ? a - b : place(a) - place(b)));
  }

  function draw() {
    const now = state();
    const { photo, page, ...filters } = now;
    const wanted = JSON.stringify(filters);
    if (wanted !== key) { shown = choose(now); key = wanted; }
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    const at = Math.min(Math.max(Number(page) || 1, 1), pages);
    const first = (at - 1) * PAGE;
    const part = shown.slice(first, first + PAGE);
    const inView = `${wanted} ${at}`;
    if (grid.dataset.view !== inView) {
      grid.dataset.view = inView;
      grid.replaceChildren(...part.map((n) => {
        const button = make("button", { className: "card", type: "button" }, ...card(n, now));
        button.dataset.n = n;
        return make("li", {}, button);
      }));
      document.getElementById("empty").hidden = shown.length > 0;
      document.getElementById("count").textContent = shown.length === count
        ? `${count} photos` : `${shown.length} of ${count} photos`;
      for (const place of document.querySelectorAll("nav.pages")) {
        place.querySelector("[data-page='-1']").disabled = at === 1;
        place.querySelector("[data-page='1']").disabled = at === pages;
        place.querySelector("span").textContent = `Page ${at} of ${pages}`;
      }
      fill(now);
    }
    const chosen = photo === undefined ? -1 : Number(photo);
    if (chosen >= 0 && chosen < count) {
      open(chosen, shown);
      if (!dialog.open) dialog.showModal();
      document.getElementById("title").focus({ preventScroll: true });
    } else if (dialog.open) dialog.close();
  }

  /** What the controls show follows the state. */
  function fill(now) {
    for (const control of form.elements) {
      if (!control.name || control.name.includes("-")) continue;
      control.value = now[control.name] ?? (control.tagName === "SELECT" ? control.options[0].value : "");
    }
    const [low, high] = (now.ratio ?? "").split("-");
    if (form.elements["ratio-low"]) {
      form.elements["ratio-low"].value = low ? Math.round(100 * low) : "";
      form.elements["ratio-high"].value = high ? Math.round(100 * high) : "";
    }
    for (const bar of document.querySelectorAll(".bars button")) {
      bar.setAttribute("aria-pressed", now[bar.dataset.of] === bar.dataset.range);
    }
    document.getElementById("clear").disabled = Object.keys(now).filter((name) => name !== "page").length === 0;
  }

  /** What is to be looked at first shows its first photos, and leads to the gallery. */
  function preview() {
    for (const link of document.querySelectorAll("a[href^='#']")) {
      if (link.classList.contains("skip")) {
        link.addEventListener("click", (event) => { event.preventDefault(); show(); });
      } else link.addEventListener("click", () => setTimeout(show));
      const now = state(link.getAttribute("href"));
      const pictures = link.matches("[data-look]") ? choose(now).slice(0, previews).map((n) => card(n, now)[0]) : [];
      for (const picture of pictures) picture.querySelectorAll(".mark").forEach((mark) => mark.remove());
      if (pictures.some((picture) => picture.querySelector("img"))) link.querySelector(".strip").append(...pictures);
    }
  }

  function show() {
    document.getElementById("gallery").scrollIntoView();
    document.getElementById("gallery").focus({ preventScroll: true });
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    const { name, value } = event.target;
    if (name.startsWith("ratio-")) {
      const low = form.elements["ratio-low"].value, high = form.elements["ratio-high"].value;
      go({ ratio: low || high ? `${(low || 0) / 100}-${(high || 100) / 100}` : "", page: "" });
    } else if (name) go({ [name]: value, page: "" });
  });
  document.getElementById("clear").addEventListener("click", () => go(Object.fromEntries(
    Object.keys(state()).map((name) => [name, ""]))));
  document.getElementById("masks").addEventListener("change", (event) =>
    document.body.classList.toggle("plain", !event.target.checked));
  for (const bar of document.querySelectorAll(".bars button")) {
    bar.addEventListener("click", () => {
      const on = state()[bar.dataset.of] === bar.dataset.range;
      go({ [bar.dataset.of]: on ? "" : bar.dataset.range, page: "" });
    });
  }
  for (const button of document.querySelectorAll("[data-page]")) {
    button.addEventListener("click", () => {
      go({ page: (Number(state().page) || 1) + Number(button.dataset.page) });
      document.getElementById("gallery").scrollIntoView();
    });
  }
  grid.addEventListener("click", (event) => {
    const button = event.target.closest(".card");
    if (button) go({ photo: button.dataset.n }, false);
  });
  const step = (by) => {
    const next = shown[shown.indexOf(Number(state().photo)) + by];
    if (next !== undefined) go({ photo: next });
  };
  const closed = () => {
    const last = state().photo;
    if (last === undefined) return;
    go({ photo: "" });
    grid.querySelector(`[data-n="${last}"]`)?.focus();
  };
  dialog.addEventListener("close", closed);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
    const button = event.target.closest("[data-go]");
    if (button) button.dataset.go === "close" ? dialog.close() : step(Number(button.dataset.go));
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (dialog.open && !typing && event.key === "ArrowLeft") step(-1);
    else if (dialog.open && !typing && event.key === "ArrowRight") step(1);
    else if (dialog.open && /^[1-9]$/.test(event.key)) dialog.querySelectorAll(".steps button")[event.key - 1]?.click();
    else if (!dialog.open && !typing && event.key === "/") form.elements.q.focus();
    else return;
    event.preventDefault();
  });
  window.addEventListener("hashchange", draw);
  draw();
  preview();
}

/** A slider between what lies below and what lies above; it keeps its place from photo to photo. */
function slider() {
  const stage = document.getElementById("stage");
  const range = document.getElementById("slide");
  const move = () => stage.style.setProperty("--at", `${range.value}%`);
  range.addEventListener("input", move);
  const drag = (event) => {
    const box = stage.getBoundingClientRect();
    range.value = Math.round(100 * (event.clientX - box.left) / box.width);
    move();
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    event.preventDefault(); // or the picture would be dragged away
    drag(event);
  });
  stage.addEventListener("pointermove", (event) => event.buttons && drag(event));
  move();
}
