// The reading room: the list of cases; a case is opened by the part of the address behind #.

import { getJson } from "./api.js";
import { byId, el, fill } from "./dom.js";
import { CaseView } from "./room-case.js";
import { reportSection } from "./room-report.js";
import { answersOfCase, hasOnlyNumbers, isSeveral, labelsInWords, labelsOf, truthOf } from "./room-words.js";
import { headline, listed, percent } from "./words.js";

const PAGE = 50;
const READER = "softfree-reader";
const SHOW = { all: "All cases", errors: "Errors", correct: "Right answers", abstained: "The model does not know", unusual: "Unusual images", unread: "Not read yet", read: "Read" };
const SHOW_NUMBERS = { ...SHOW, errors: "Outside the model’s interval", correct: "Within the interval" };
const SORT_NUMBERS = { errors: "Largest errors first", row: "Row of the table" };
const SORT = { errors: "Errors first", confidence: "Least certain first", certain: "Most certain first", row: "Row of the table" };
const state = { room: null, filters: { show: "all", sort: "errors", column: "", value: "", split: "" }, cases: [], view: null, reader: "" };

async function start() {
  state.view = new CaseView(byId("case"), { list: () => { location.hash = ""; }, go, changed: () => { state.stale = true; } });
  try {
    const { room, who } = await getJson("v1/page");
    if (!room) throw new Error("This server has no reading room. Start it with: softfree serve STUDY --cases TABLE");
    state.reader = who === "local" ? await readerName() : who;
    await load();
    addEventListener("hashchange", route);
    await route();
  } catch (error) {
    complain(error);
  }
}

/** On a server that knows no users, the reader says who they are, once. */
async function readerName() {
  const known = localStorage.getItem(READER);
  if (known) return known;
  return new Promise((resolve) => {
    const input = el("input", { type: "text", id: "reader-name", required: true, maxLength: 60, autocomplete: "name" });
    const form = el(
      "form",
      { method: "dialog", class: "name-form" },
      el("h2", { id: "reader-title" }, "Who reads?"),
      el("p", {}, "Your name or initials are stored with what you decide."),
      el("label", { for: "reader-name" }, "Name or initials"),
      input,
      el("div", { class: "buttons" }, el("button", { type: "submit", class: "primary" }, "Continue")),
    );
    const dialog = el("dialog", { "aria-labelledby": "reader-title" }, form);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const name = input.value.trim();
      localStorage.setItem(READER, name);
      dialog.remove();
      resolve(name);
    });
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
}

async function load(more = false) {
  const { show, sort, column, value, split } = state.filters;
  const query = new URLSearchParams({ show, sort, reader: state.reader, offset: more ? state.cases.length : 0, limit: PAGE });
  if (column) {
    query.set("column", column);
    query.set("value", value);
  }
  if (split) query.set("split", split);
  const answer = await getJson(`v1/cases?${query}`);
  state.room = answer;
  state.cases = more ? [...state.cases, ...answer.cases] : answer.cases;
  state.stale = false;
}

async function route() {
  const number = /^#case-(\d+)$/.exec(location.hash)?.[1];
  const isCase = number !== undefined;
  byId("list").hidden = isCase;
  byId("case").hidden = !isCase;
  try {
    if (isCase) {
      await state.view.open(Number(number), state.room, state.reader, neighbors(Number(number)));
      return;
    }
    state.view.close();
    if (state.stale) await load();
    showList();
  } catch (error) {
    complain(error);
  }
}

/** The cases before and after one in the present list; after one that is not in it comes the first. */
function neighbors(row) {
  const at = state.cases.findIndex((one) => one.row === row);
  return { before: state.cases[at - 1]?.row ?? null, after: state.cases[at + 1]?.row ?? null };
}

async function go(row) {
  if (row === null) {
    location.hash = "";
    return;
  }
  const at = state.cases.findIndex((one) => one.row === row);
  if (at === state.cases.length - 1 && state.cases.length < state.room.found) await load(true);
  location.hash = `#case-${row}`;
}

function showList() {
  const { room } = state;
  document.title = "Reading room – softfree";
  byId("room-lead").textContent = room.blinded
    ? `Blinded: decide first, then the model ${room.model} is shown, and you may change your mind. Cases come in a random order.`
    : `The ${room.study ? "out-of-fold and test" : listed(room.splits)} cases of ${room.model}. Say where you agree with their ${hasOnlyNumbers(room) ? "numbers" : "labels"} and where you do not.`;
  if (room.left_out.length) byId("room-lead").append(` Survival (${listed(room.left_out)}) is not shown: no reader can see in an image when an event comes.`);
  if (room.notice) byId("room-lead").append(` ${room.notice}`);
  fill(byId("room-progress"), `${state.reader}: ${room.done} of ${room.total} read`, progressBar(room.done / room.total));
  fill(byId("filters"), filters());
  showCases();
  reportSection(byId("report"), room);
}

function progressBar(share) {
  const bar = el("div");
  bar.style.width = `${100 * share}%`;
  return el("div", { class: "progress", "aria-hidden": "true" }, bar);
}

function filters() {
  const { room } = state;
  const shown = room.blinded ? ["all", "unread", "read"] : Object.keys(SHOW);
  const fields = [select("show", "Show", shown.map((key) => [key, (hasOnlyNumbers(room) ? SHOW_NUMBERS : SHOW)[key]]))];
  if (!room.blinded) fields.push(select("sort", "Order", Object.entries(hasOnlyNumbers(room) ? SORT_NUMBERS : SORT)));
  if (room.splits.length > 1) fields.push(select("split", "Split", [["", "All"], ...room.splits.map((name) => [name, name])]));
  for (const [name, values] of Object.entries(room.columns)) {
    const chosen = state.filters.column === name ? state.filters.value : "";
    fields.push(select(`column-${name}`, name, [["", "All"], ...values.filter(Boolean).map((value) => [value, value])], chosen));
  }
  return fields;
}

function select(key, label, choices, chosen = state.filters[key]) {
  const id = `filter-${key}`;
  const input = el("select", { id }, choices.map(([value, words]) => el("option", { value, selected: value === chosen }, words)));
  input.addEventListener("change", async () => {
    if (key.startsWith("column-")) Object.assign(state.filters, { column: input.value ? key.slice(7) : "", value: input.value });
    else state.filters[key] = input.value;
    try {
      await load();
      showList();
      byId(id)?.focus();
    } catch (error) {
      complain(error);
    }
  });
  return el("div", { class: "field" }, el("label", { for: id }, label), input);
}

function showCases() {
  const { room, cases } = state;
  byId("found").textContent = room.found === room.total ? `${room.total} cases` : `${room.found} of ${room.total} cases`;
  const names = Object.keys(room.columns);
  const head = ["", "Case", ...(room.blinded ? [] : [hasOnlyNumbers(room) ? "Number" : "Label"]), "The model", ...(hasProbability(room) ? [null] : []), ...names, "Your reading"];
  fill(byId("cases"), cases.length ? el(
    "table",
    { class: "cases" },
    el("caption", { class: "unseen" }, "Cases"),
    el("thead", {}, el("tr", {}, head.map((words) => words === null ? sortedHead() : el("th", { scope: "col" }, words || el("span", { class: "unseen" }, "Image"))))),
    el("tbody", {}, cases.map((one) => row(one, names))),
  ) : el("p", { class: "hint" }, "No case is like this."));
  watch();
  fill(byId("more"), cases.length < room.found ? el("button", { type: "button", onclick: async () => {
    const first = state.cases.length;
    await load(true).catch(complain);
    showCases();
    document.querySelectorAll(".cases tbody tr")[first]?.querySelector("a")?.focus();
  } }, `Show more (${room.found - cases.length})`) : null);
}

const hasProbability = (room) => !room.blinded && !hasOnlyNumbers(room);

/** The head of the column with probabilities, which sorts by them. */
function sortedHead() {
  const now = state.filters.sort;
  const next = now === "confidence" ? "certain" : "confidence";
  const order = { confidence: "ascending", certain: "descending" }[now] ?? "none";
  const sign = { confidence: " ↑", certain: " ↓" }[now] ?? "";
  return el("th", { scope: "col", "aria-sort": order }, el("button", { type: "button", onclick: async () => {
    state.filters.sort = next;
    await load().catch(complain);
    showList();
  } }, `${isSeveral(state.room) ? "Lowest probability" : "Probability"}${sign}`));
}

function row(one, names) {
  const { room } = state;
  const link = `#case-${one.row}`;
  const name = `Row ${one.row}`;
  const image = el("img", { alt: "", "data-src": `v1/cases/${one.row}/thumbnail.jpg`, width: 60, height: 60 });
  return el(
    "tr",
    {},
    el("td", { class: "thumb" }, one.status === "ok" ? el("a", { class: "thumb-link", href: link, tabIndex: -1, "aria-hidden": "true" }, image) : null),
    el("th", { scope: "row" }, el("a", { class: "case-name", href: link }, name), one.split ? el("span", { class: "fine" }, ` ${one.split}`) : null),
    room.blinded ? null : el("td", { "data-label": hasOnlyNumbers(room) ? "Number" : "Label" }, lines(labelsOf(room, truthOf(room, one)))),
    el("td", { "data-label": "The model" }, modelCell(one)),
    hasProbability(room) ? el("td", { "data-label": "Probability" }, one.confidence === null ? "" : percent(one.confidence)) : null,
    names.map((column) => el("td", { "data-label": column }, one.columns[column])),
    el("td", { "data-label": "Your reading" }, readingInWords(one)),
  );
}

function modelCell(one) {
  if (!one.uncovered) return "hidden until you decide";
  if (one.status !== "ok") return `not readable: ${one.reason}`;
  const flags = [
    one.wrong && el("span", { class: "flag wrong" }, wrongInWords(one)),
    one.abstain && el("span", { class: "flag unsure" }, "does not know"),
    one.unusual && el("span", { class: "flag unsure" }, "unusual"),
  ].filter(Boolean);
  const answers = answersOfCase(state.room, one).map((answer) => ({ name: answer.name, words: headline(answer) }));
  return [lines(answers), flags.length ? el("span", { class: "flags" }, flags) : null];
}

function wrongInWords(one) {
  const { room } = state;
  if (isSeveral(room)) return `differs in ${listed(room.targets.map(({ name }) => name).filter((name) => one.answers[name].wrong))}`;
  return hasOnlyNumbers(room) ? "label outside the interval" : "differs from the label";
}

/** Words, or a line for each target. */
const lines = (parts) => parts.map(({ name, words }) => (name ? el("span", { class: "line" }, `${name}: ${words}`) : words));

function readingInWords(one) {
  const last = one.readings.review ?? one.readings.with_model ?? one.readings.alone;
  if (!last) return "";
  const words = { agree: "agree", disagree: "disagree", relabel: `relabel: ${labelsInWords(state.room, last.label)}`, label: last.decision === "label" ? labelsInWords(state.room, last.label) : "" }[last.decision];
  return el("span", { class: one.done ? "flag read" : "flag unsure" }, words);
}

/** Load thumbnails when they come into sight. */
function watch() {
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      target.src = target.dataset.src;
      seen.unobserve(target);
    }
  }, { rootMargin: "200px" });
  for (const image of document.querySelectorAll("img[data-src]:not([src])")) seen.observe(image);
}

function complain(error) {
  byId("error").textContent = error.message;
  byId("error").hidden = false;
}

start();
