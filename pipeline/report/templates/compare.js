"use strict";
// The comparison's own part: what its filters and orders mean, a card of two masks, and one photo with both.

const rows = read("rows");
const [BEFORE, AFTER] = read("runs");
const STATUS = { ok: "mask", no_face: "no face found", failed: "failed" };
const STEPS = {
  "before and after": ["before", "after"],
  "photo and before": ["photo", "before"],
  "photo and after": ["photo", "after"],
  "truth and before": ["truth", "before"],
  "truth and after": ["truth", "after"],
};

const keep = (n, now) => (!now.verdict || rows.verdict[n] === now.verdict)
  && (!now.group || rows.groups[rows.group[n]] === now.group)
  && (!now.q || rows.ids[n].toLowerCase().includes(now.q.toLowerCase()))
  && (!now.other || rows.status[n][0] !== rows.status[n][1]);

const orders = {
  worse: (n) => rows.gain[n],
  better: (n) => rows.gain[n] == null ? null : -rows.gain[n],
  more: (n) => rows.ratio[n][0] == null || rows.ratio[n][1] == null ? null : rows.ratio[n][0] - rows.ratio[n][1],
};

const signed = (value) => `${value >= 0.0005 ? "+" : value <= -0.0005 ? "−" : "±"}${Math.abs(value).toFixed(3)}`;

/** Photo and mask of one of the runs, small; what the second run has in common with the first is kept once. */
function small(n, which) {
  const [photo, mask, again, after] = thumbnail(n, rows.bundle);
  return which === 0 ? [photo, mask] : [again || photo, after];
}

function half(n, which) {
  const [photo, mask] = small(n, which);
  const name = which === 0 ? BEFORE : AFTER;
  const status = rows.status[n][which];
  return make("span", { className: "picture" },
    photo ? make("img", { src: webp(photo), alt: `${name}: ${status === "ok" ? `${percent(rows.ratio[n][which])} hidden` : STATUS[status]}`, decoding: "async" })
      : make("span", { className: "blank" }, "no picture"),
    mask ? stencil(mask) : null,
    status === "ok" ? null : make("span", { className: "mark" }, STATUS[status]));
}

function card(n) {
  const value = rows.gain[n] != null ? `IoU ${signed(rows.gain[n])}` : `${percent(rows.change[n])} changed`;
  return [make("span", { className: "pair" }, half(n, 0), half(n, 1)),
    make("span", { className: "caption" }, make("span", { className: "name", title: rows.ids[n] }, make("bdi", {}, rows.ids[n])),
      make("b", { className: rows.verdict[n] }, value))];
}

let chosen = "before and after";

function open(n, shown) {
  document.getElementById("title").textContent = rows.ids[n];
  const place = shown.indexOf(n);
  document.querySelector("[data-go='-1']").disabled = place <= 0;
  document.querySelector("[data-go='1']").disabled = place < 0 || place === shown.length - 1;
  document.getElementById("place").textContent = place < 0 ? "" : `${place + 1} of ${shown.length}`;
  const faces = read(`steps-${n}`) ?? [small(n, 0), small(n, 1)];
  const names = Object.keys(STEPS).filter((name) => !name.startsWith("truth") || faces.some(([, , truth]) => truth));
  const step = names.includes(chosen) ? chosen : names[0];
  show(faces, step);
  document.getElementById("steps").replaceChildren(...names.map((name) => {
    const one = make("button", { type: "button", className: "button", ariaPressed: String(name === step) }, name);
    one.addEventListener("click", () => { chosen = name; open(n, shown); document.querySelector("#steps [aria-pressed=true]").focus(); });
    return one;
  }));
  document.getElementById("figures").replaceChildren(...figures(n));
}

function show(faces, step) {
  const names = { before: BEFORE, after: AFTER, photo: "photo", truth: "truth" };
  const which = step.endsWith("before") ? 0 : 1; // whose frame the other side is shown in
  const side = (what, kind) => {
    const [photo, mask, truth] = faces[what === "before" ? 0 : what === "after" ? 1 : which];
    const base = photo || faces[0][0] || faces[1][0];
    const layer = what === "photo" ? "" : what === "truth" ? truth : mask;
    return make("div", { className: kind, role: "img", ariaLabel: what === "photo" ? "the photo" : `mask: ${names[what]}` },
      ...(base ? [make("img", { src: webp(base), alt: "" })] : []), ...(layer ? [stencil(layer, what === "truth" ? "true" : "")] : []));
  };
  const [left, right] = STEPS[step];
  document.getElementById("stage").replaceChildren(side(left, "under"), side(right, "cut"),
    make("div", { className: "sides", ariaHidden: "true" }, make("span", {}, names[left]), make("span", {}, names[right])));
  document.getElementById("slide").setAttribute("aria-label", `Slide between ${names[left]} and ${names[right]}`);
  document.getElementById("caption").textContent = left === "truth" ? "Blue is the truth, orange the answer." : "Orange is hidden.";
}

function figures(n) {
  const both = (of, text) => of[n][0] == null && of[n][1] == null ? null : `${text(of[n][0])} → ${text(of[n][1])}`;
  const lines = [["verdict", rows.verdict[n]], ["group", rows.groups[rows.group[n]]], ["status", both(rows.status, (one) => STATUS[one])],
    ["hidden", both(rows.ratio, (one) => percent(one, 1))], ["IoU with truth", both(rows.iou, figure)],
    ["predicted IoU", both(rows.sure, figure)], ["changed", `${percent(rows.change[n], 1)} of what either marks`]];
  return lines.filter(([, value]) => value != null).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
}

document.getElementById("slide").value = 50;
slider();
gallery({ count: rows.ids.length, keep, orders, card, open, previews: 3 });
