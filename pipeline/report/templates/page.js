"use strict";
// The report's own part: what its filters and orders mean, what a card shows, and a photo's steps.

const rows = read("rows");
const STATUS = { ok: "mask", no_face: "no face found", failed: "failed" };
const STEPS = {
  photo: "The face as it was cut out and turned upright.",
  parse: "What the parser takes for parts of a face; what lies outside the face region is dark.",
  reference: "The same face, painted anew with nothing in front of it.",
  contrast: "How far photo and reference differ: the brighter, the more.",
  prompts: "What the segmenter is asked: green points are face, orange points are hidden.",
  mask: "The answer: orange is hidden.",
  truth: "The true mask, in blue.",
};

const several = (n, wanted) => !wanted || (wanted === "several" ? rows.faces[n] > 1 : rows.left[n] > 0);

function keep(n, now) {
  return (!now.status || rows.statuses[rows.status[n]] === now.status)
    && (!now.group || rows.groups[rows.group[n]] === now.group)
    && (!now.q || rows.ids[n].toLowerCase().includes(now.q.toLowerCase()))
    && (!now.steps || rows.steps.includes(n))
    && several(n, now.faces) && within(now.ratio, rows.ratio[n]) && within(now.sure, rows.sure[n]);
}

const orders = {
  most: (n) => rows.ratio[n] == null ? null : -rows.ratio[n],
  least: (n) => rows.ratio[n],
  unsure: (n) => rows.sure[n],
  sure: (n) => rows.sure[n] == null ? null : -rows.sure[n],
  worst: (n) => rows.iou[n],
  best: (n) => rows.iou[n] == null ? null : -rows.iou[n],
};

function card(n, now) {
  const [photo, mask] = thumbnail(n, rows.bundle);
  const status = rows.statuses[rows.status[n]];
  const by = now.sort;
  const value = status !== "ok" ? STATUS[status]
    : by === "worst" || by === "best" ? `IoU ${rows.iou[n]?.toFixed(2) ?? "–"}`
    : by === "sure" || by === "unsure" ? `≈ ${rows.sure[n]?.toFixed(2) ?? "–"}`
    : percent(rows.ratio[n]);
  const hidden = status === "ok" ? `, ${percent(rows.ratio[n])} of the face hidden` : "";
  const picture = make("span", { className: "picture" },
    photo ? make("img", { src: webp(photo), alt: `${rows.ids[n]}${hidden}`, decoding: "async" })
      : make("span", { className: "blank" }, status === "failed" ? "no picture" : "not shown"),
    mask ? stencil(mask) : null,
    rows.faces[n] > 1 ? make("span", { className: "mark" }, `${rows.faces[n]} faces`) : null);
  return [picture, make("span", { className: "caption" },
    make("span", { className: "name", title: rows.ids[n] }, make("bdi", {}, rows.ids[n])), make("b", { className: status }, value))];
}

/** One step of a face, above the photo. */
function layer(face, step) {
  if (step === "mask" || step === "truth") return [stencil(face[step], step === "truth" ? "true" : "")];
  if (step === "prompts") return [points(face.prompts)];
  return step === "photo" ? [] : [make("img", { src: webp(face[step]), alt: "" })];
}

function points(list) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("viewBox", "0 0 100 100");
  picture.setAttribute("aria-hidden", "true");
  for (const [x, y, kind] of list) {
    const dot = document.createElementNS(space, "circle");
    for (const [name, value] of [["cx", x], ["cy", y], ["r", 0.55], ["class", kind === 1 ? "face" : "hidden"]]) dot.setAttribute(name, value);
    picture.append(dot);
  }
  return picture;
}

let chosenStep = "mask";
let chosenFace = 0;
let last = -1;

function open(n, shown) {
  if (n !== last) chosenFace = 0;
  last = n;
  const faces = read(`steps-${n}`);
  const status = rows.statuses[rows.status[n]];
  document.getElementById("title").textContent = rows.ids[n];
  const place = shown.indexOf(n);
  document.querySelector("[data-go='-1']").disabled = place <= 0;
  document.querySelector("[data-go='1']").disabled = place < 0 || place === shown.length - 1;
  document.getElementById("place").textContent = place < 0 ? "" : `${place + 1} of ${shown.length}`;
  const face = faces?.[Math.min(chosenFace, faces.length - 1)] ?? simple(n);
  const names = faces ? Object.keys(STEPS).filter((name) => name === "photo" || face[name]) : [];
  const step = names.includes(chosenStep) ? chosenStep : face.mask ? "mask" : "photo";
  show(n, face, step);
  document.getElementById("steps").replaceChildren(...names.map((name) => button(n, shown, face, name, step)));
  document.getElementById("faces").replaceChildren(...(faces?.length > 1 ? faces.map((_, at) => {
    const one = make("button", { className: "button", type: "button", ariaPressed: String(at === chosenFace) }, `Face ${at + 1}`);
    one.addEventListener("click", () => { chosenFace = at; open(n, shown); });
    return one;
  }) : []));
  document.getElementById("about").replaceChildren(...about(n, status, faces));
  document.getElementById("figures").replaceChildren(...figures(n, status, face));
}

/** What there is of a photo whose steps are not on the page. */
function simple(n) {
  const [photo, mask] = thumbnail(n, rows.bundle);
  return { photo, mask };
}

function show(n, face, step) {
  const stage = document.getElementById("stage");
  const base = face.photo ? make("img", { src: webp(face.photo), alt: `${rows.ids[n]}, the photo` })
    : make("span", { className: "blank" }, "There is no picture of it here.");
  const cut = make("div", { className: step === "prompts" ? "cut dim" : "cut" }, ...layer(face, step));
  if (step !== "photo") { cut.setAttribute("role", "img"); cut.setAttribute("aria-label", `${step}: ${STEPS[step]}`); }
  const sides = make("div", { className: "sides", ariaHidden: "true" }, make("span", {}, "photo"), make("span", {}, step));
  stage.replaceChildren(base, ...(step === "photo" ? [] : [cut, sides]));
  stage.classList.toggle("whole", step === "photo");
  const slide = document.getElementById("slide");
  slide.disabled = step === "photo";
  slide.setAttribute("aria-label", `Slide between photo and ${step}`);
  document.getElementById("caption").textContent = face.photo ? STEPS[step] : "";
}

function button(n, shown, face, name, step) {
  const picture = make("span", { className: "picture" },
    make("img", { src: webp(["parse", "reference", "contrast"].includes(name) ? face[name] : face.photo), alt: "" }),
    ...(["mask", "truth", "prompts"].includes(name) ? layer(face, name) : []));
  const one = make("button", { type: "button", ariaPressed: String(name === step) }, picture, name);
  one.addEventListener("click", () => {
    chosenStep = name;
    open(n, shown);
    document.querySelectorAll("#steps button").forEach((other) => other.ariaPressed === "true" && other.focus());
  });
  return one;
}

function about(n, status, faces) {
  if (status === "failed") {
    const [kind, text] = rows.errors[n] ?? ["", ""];
    return [make("p", { className: "why" }, make("b", {}, kind), make("br"), text)];
  }
  if (status === "no_face") {
    return [make("p", { className: "note" }, "No face was found. If there is one, a bbox or landmarks in the manifest say where.")];
  }
  return faces ? [] : [make("p", { className: "note" },
    `The page has room for the steps of ${rows.steps.length} photos, and this is none of them. To see them: `,
    make("code", {}, `s3pot-batch report --photo '${rows.ids[n]}'`))];
}

function figures(n, status, face) {
  const lines = [["status", STATUS[status]], ["group", rows.groups[rows.group[n]]]];
  if (status === "ok") {
    lines.push(["hidden", percent(rows.ratio[n], 1)], ["IoU with truth", rows.iou[n] == null ? null : figure(rows.iou[n])],
      ["predicted IoU", figure(rows.sure[n])], ["faces", rows.faces[n] + (rows.left[n] ? `, and ${rows.left[n]} left out` : "")],
      ["this face hidden", face.ratio != null && rows.faces[n] > 1 ? percent(face.ratio, 1) : null],
      ["detector's score", face.score == null ? null : figure(face.score)],
      ["parser's confidence", face.parsed == null ? null : figure(face.parsed)], ["Zarr row", face.row ?? null]);
  }
  return lines.filter(([, value]) => value != null).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]);
}

slider();
gallery({ count: rows.ids.length, keep, orders, card, open });
