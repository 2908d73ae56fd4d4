// The answer beside the image.

import { el } from "./dom.js";
import {
  answersOf, disagreementInWords, headline, horizons, percent, performance, probabilitiesOf, reason, setInWords,
  usualInWords, warnings,
} from "./words.js";

/** Show the answer for a sample; the parts are ordered by what must be read first. */
export function answerPanel(answer, model, view) {
  const row = answer.row;
  if (row.status !== "ok") return [unreadable(row)];
  const answers = answersOf(row, model);
  return [
    ...warnings(row, answers, model).map(warning),
    ...answers.map((own) => oneAnswer(own, model)),
    el("p", { class: "fine" }, usualInWords(row)),
    mapLegend(view, answer.note),
    details("What was done to the pixels", steps(answer, view)),
    aboutModel(model, answer.model),
  ];
}

function unreadable(row) {
  return el("div", { class: "callout bad", role: "alert" }, el("h2", {}, "This could not be read"), el("p", {}, row.reason));
}

function warning({ title, text }) {
  return el("div", { class: "callout warn" }, el("h3", {}, title), el("p", {}, text));
}

function oneAnswer(answer, model) {
  const set = setInWords(answer, model);
  const disagreement = disagreementInWords(answer);
  return el(
    "section",
    { class: "card", "aria-label": answer.name ? `Answer: ${answer.name}` : "Answer" },
    el("p", { class: "eyebrow" }, answer.name || "The model says"),
    el("h2", { class: "headline" }, headline(answer)),
    el("p", { class: "why" }, reason(answer, model)),
    bars(answer),
    survival(answer),
    set && el("p", { class: "fine" }, set),
    disagreement && el("p", { class: "fine" }, disagreement),
  );
}

/** Probabilities as bars with a mark at the threshold; the same as text for those who do not see them. */
export function bars(answer) {
  const classes = probabilitiesOf(answer.row);
  if (!classes.length) return null;
  const marked = answer.task === "binary" ? classes.slice(1) : answer.task === "multilabel" ? classes : [];
  const called = (answer.row.predicted ?? "").split("; ");
  const rows = classes.map(({ name, p }) => {
    const threshold = marked.some((one) => one.name === name) ? answer.thresholds[name] ?? 0.5 : null;
    const fillBar = el("span", { class: "bar-fill" });
    fillBar.style.width = `${100 * (p ?? 0)}%`;
    const mark = threshold === null ? null : el("span", { class: "bar-mark" });
    if (mark) mark.style.left = `${100 * threshold}%`;
    const isCalled = answer.task === "multilabel" ? called.includes(name) : answer.row.predicted === name;
    return el(
      "li",
      { class: isCalled ? "bar called" : "bar" },
      el("span", { class: "bar-name" }, name, isCalled ? el("span", { class: "unseen" }, " (the model's answer)") : null),
      el("span", { class: "bar-value" }, percent(p)),
      el("span", { class: "bar-track", "aria-hidden": "true" }, fillBar, mark),
      threshold === null ? null : el("span", { class: "bar-note" }, `called from ${percent(threshold)} on`),
    );
  });
  return el("ul", { class: "bars", "aria-label": "Calibrated probabilities" }, rows);
}

function survival(answer) {
  const points = horizons(answer.row);
  if (!points.length) return null;
  return el(
    "table",
    { class: "plain" },
    el("caption", {}, "Probability of no event until"),
    el("tbody", {}, points.map(({ horizon, p }) => el("tr", {}, el("th", { scope: "row" }, horizon), el("td", {}, percent(p))))),
  );
}

/** What the colors of the map mean. */
export function mapLegend(view, note = "") {
  const map = view?.map;
  if (!map) return el("p", { class: "fine" }, note && `No map: ${note}.`);
  const subject = map.subject ? `“${map.subject}”` : "the answer";
  const words = map.signed
    ? [key("for", `speaks for ${subject}`), key("against", `speaks against ${subject}`)]
    : [key("for", "what the model attends to, whatever the class")];
  return el(
    "section",
    { class: "card", "aria-label": "Map" },
    el("p", { class: "eyebrow" }, "The map"),
    el("ul", { class: "legend" }, words, map.unseen ? key("unseen-part", "not seen by the model") : null),
    el("p", { class: "fine" }, "It shows what the model used, not what is diseased. The stronger the color, the larger the part of the answer."),
    details("How the map was made", el("p", {}, `Method: ${map.method.replaceAll("_", " ")}. ${map.description}`)),
  );
}

function key(kind, words) {
  return el("li", {}, el("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), words);
}

function details(title, content) {
  return el("details", {}, el("summary", {}, title), content);
}

function steps(answer, view) {
  const read = view?.steps ?? [];
  const done = answer.steps ?? [];
  const all = [...new Set([...read, ...done])];
  const stored = view ? el("p", {}, `The file holds: ${view.stored}.`) : null;
  return [stored, all.length ? el("ol", { class: "steps" }, all.map((step) => el("li", {}, step))) : el("p", {}, "Nothing.")];
}

/** Which model answered: name, version, hash, and how good it was. */
export function aboutModel(model, version = model) {
  const measured = version.hash === model.hash ? performance(model.metrics) : null;
  return details(`The model: ${version.name}`, [
    el(
      "dl",
      { class: "facts" },
      fact("Version", `softfree ${version.version}`),
      fact("Hash", el("code", { class: "hash" }, version.hash)),
      fact("Measured", measured ?? "not recorded with this model"),
      fact("Reads", model.kind),
      fact("Classes", model.classes.join(", ")),
    ),
    el("p", {}, el("a", { href: `v1/models/${encodeURIComponent(model.name)}/card` }, "Model card")),
  ]);
}

function fact(name, value) {
  return [el("dt", {}, name), el("dd", {}, value)];
}
