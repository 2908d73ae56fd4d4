// The page: choose a model, drop an image, see the answer.

import { follow, getJson, remove, upload } from "./api.js";
import { aboutModel, answerPanel } from "./answer.js";
import { byId, el, fill, save } from "./dom.js";
import { belongTogether, filesOfDrop, filesOfInput, readsInWords } from "./files.js";
import { Viewer } from "./viewer.js";
import { answersOf, headline, percent, probabilitiesOf } from "./words.js";

const MANY = 200;  // files of one upload
const state = { models: [], model: null, job: null, names: [], viewer: null, chosen: 0, stop: null, last: null };

async function start() {
  state.viewer = new Viewer(byId("stage"));
  listen();
  try {
    state.models = await getJson("v1/models");
    const { room, hold, keep } = await getJson("v1/page");
    byId("room-link").hidden = !room;
    byId("kept").textContent = keep ? "This server keeps uploads." : `Uploads are deleted ${hold === 1 ? "a minute" : `${hold} minutes`} after the answer.`;
    showModels();
  } catch (error) {
    complain(error);
  }
}

function showModels() {
  const select = byId("model");
  fill(select, state.models.map((model) => el("option", { value: model.name }, model.name)));
  byId("model-field").hidden = state.models.length < 2;
  select.addEventListener("change", () => chooseModel(select.value));
  chooseModel(state.models[0].name);
}

function chooseModel(name) {
  state.model = state.models.find((model) => model.name === name);
  byId("reads").textContent = readsInWords(state.model.kind);
  byId("drop-text").textContent = { volume: "Drop a volume here", slide: "Drop a slide here", case: "Drop the images of a case here" }[state.model.kind] ?? "Drop an image here";
  fill(byId("about"), el("div", { class: "about" }, aboutModel(state.model)));
  fill(byId("variables"), variableFields(state.model));
}

/** Fields for the clinical variables of a model that uses some; an empty one is a missing value. */
function variableFields(model) {
  const variables = model.about?.variables ?? [];
  if (!variables.length) return null;
  return el(
    "fieldset",
    { class: "variables" },
    el("legend", {}, "Clinical variables (leave empty what is not known)"),
    variables.map((variable) => {
      const name = variable.name ?? variable;
      return el("label", {}, name, el("input", { name, type: "text", autocomplete: "off", "data-variable": name }));
    }),
  );
}

function listen() {
  const files = byId("files");
  const folder = byId("folder");
  byId("choose-files").addEventListener("click", () => files.click());
  byId("choose-folder").addEventListener("click", () => folder.click());
  for (const input of [files, folder]) {
    input.addEventListener("change", () => {
      const chosen = filesOfInput(input);
      input.value = "";
      if (chosen.length) read(chosen);
    });
  }
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      if (name !== "dragleave") event.preventDefault();
      byId("drop").classList.toggle("over", name === "dragover");
    });
  }
  document.addEventListener("drop", async (event) => {
    const dropped = await filesOfDrop(event.dataTransfer);
    if (dropped.length) read(dropped);
  });
  byId("again").addEventListener("click", again);
  byId("cancel").addEventListener("click", () => state.stop?.abort());
  byId("save").addEventListener("click", saveAnswer);
}

function again() {
  state.stop?.abort();
  state.viewer.close();
  forget();
  byId("work").hidden = true;
  byId("start").hidden = false;
  document.title = "softfree";
  byId("choose-files").focus();
}

/** Let the server delete what it holds. */
function forget() {
  if (state.job) remove(`v1/jobs/${state.job}`).catch(() => {});
  state.job = null;
}

async function read(files) {
  await ready;  // a file may come before the list of models
  if (!state.model) return;
  state.stop?.abort();
  forget();
  byId("start-error").hidden = true;
  if (files.length > MANY && !belongTogether(files, state.model.kind)) {
    complain(new Error(`${files.length} files at once; choose up to ${MANY}, or use softfree predict for a whole folder.`));
    return;
  }
  state.stop = new AbortController();
  const { signal } = state.stop;
  openWork(files);
  try {
    const form = new FormData();
    for (const file of files) form.append("files", file, file.name);
    const variables = [...document.querySelectorAll("[data-variable]")].map((input) => [input.dataset.variable, input.value.trim()]);
    if (variables.length) form.append("variables", JSON.stringify(Object.fromEntries(variables.filter(([, value]) => value))));
    const options = new URLSearchParams({ wait: "false", hold: "true", explain: String(state.model.explains) });
    if (belongTogether(files, state.model.kind)) options.set("case", "true");
    say("Sending…");
    const job = await upload(`v1/models/${encodeURIComponent(state.model.name)}/predict?${options}`, form, progress, signal);
    state.job = job.id;
    progress(null);
    await answerOf(job, signal);
  } catch (error) {
    if (error.name !== "AbortError") failed(error);
    else if (!byId("work").hidden && !state.last) again();
  } finally {
    byId("cancel").hidden = true;
    progress(null);
  }
}

function openWork(files) {
  state.last = null;
  state.names = files.map((file) => file.name);
  state.chosen = 0;
  state.viewer.close();
  byId("start").hidden = true;
  byId("work").hidden = false;
  byId("save").hidden = true;
  byId("cancel").hidden = false;
  fill(byId("answer"));
  byId("sample-bar").hidden = true;
  window.scrollTo(0, 0);
}

async function answerOf(job, signal) {
  const opened = showSample(0);  // the image is there before the answer
  let shown = 0;
  const end = await follow(job.id, (now) => {
    say(now.state === "queued" ? "Waiting for a free worker…" : now.total > 1 ? `Reading: ${now.done} of ${now.total}…` : `Reading${state.model.explains ? " and mapping" : ""}…`);
    progress(now.total > 1 && now.state === "running" ? now.done / now.total : null);
    state.last = now;
    if (now.done !== shown) showBar();
    shown = now.done;
  }, signal);
  state.last = end;
  await opened;
  if (end.state === "canceled") return again();
  showBar();
  byId("save").hidden = false;
  await showAnswer(state.chosen, true);
}

const baseOf = (index) => `v1/jobs/${state.job}/samples/${index}`;

async function showSample(index) {
  state.chosen = index;
  try {
    state.view = await state.viewer.open(baseOf(index));
  } catch (error) {
    state.view = null;
    fill(byId("stage"), el("div", { class: "stage empty" }, el("p", {}, error.status === 422 || error.status === 404 ? "This file has no image that can be shown." : error.message)));
  }
}

async function showAnswer(index, announced) {
  const answer = state.last?.predictions?.[index];
  if (!answer) return;
  if (state.view && answer.maps.length && !state.view.map) {
    state.view = await state.viewer.refreshMap().catch(() => state.view);
  }
  fill(byId("answer"), answerPanel(answer, state.model, state.view));
  addParts(index);
  const row = answer.row;
  const words = row.status === "ok" ? answersOf(row, state.model).map((one) => (one.name ? `${one.name}: ` : "") + headline(one)).join("; ") : "could not be read";
  if (announced) say(`${state.names[index] ?? "Sample"}: ${words}. Answered in ${answer.seconds.toFixed(1)} s.`);
  document.title = `${words} – softfree`;
}

/** Buttons for the images of a case. */
function addParts(index) {
  const count = state.view?.parts ?? 1;
  if (count < 2) return;
  const choose = el("div", { class: "segments", role: "group", "aria-label": "Image of the case" }, Array.from({ length: count }, (_, part) =>
    el("button", { type: "button", "aria-pressed": String(part === state.viewer.part), onclick: async () => {
      state.view = await state.viewer.open(baseOf(index), { part });
      addParts(index);
    } }, state.names[part] ?? `Image ${part + 1}`)));
  byId("stage").prepend(choose);
}

/** A list of the samples of a folder, each with its answer. */
function showBar() {
  const answers = state.last?.predictions ?? [];
  const total = state.last?.total ?? 1;
  const bar = byId("sample-bar");
  bar.hidden = total < 2;
  if (total < 2) return;
  const select = el("select", { id: "sample", onchange: () => move(Number(select.value)) }, Array.from({ length: total }, (_, index) =>
    el("option", { value: index, selected: index === state.chosen }, `${state.names[index] ?? index + 1} – ${inShort(answers[index])}`)));
  const step = (by, label, sign) => el("button", { type: "button", class: "icon", "aria-label": label, disabled: state.chosen + by < 0 || state.chosen + by >= total, onclick: () => move(state.chosen + by) }, sign);
  fill(bar, el("label", { for: "sample" }, `${total} samples`), step(-1, "Previous sample", "‹"), select, step(1, "Next sample", "›"));
}

function inShort(answer) {
  if (!answer) return "waiting";
  if (answer.row.status !== "ok") return "not readable";
  const [first] = answersOf(answer.row, state.model);
  const own = probabilitiesOf(first.row).find(({ name }) => name === first.row.predicted);
  const flags = [answer.row.abstain && "does not know", answer.row.unusual && "unusual"].filter(Boolean);
  return [headline(first), own && percent(own.p), ...flags].filter(Boolean).join(", ");
}

async function move(index) {
  await showSample(index);
  showBar();
  fill(byId("answer"));
  await showAnswer(index, true);
}

function saveAnswer() {
  const { model, predictions, notice } = state.last;
  save("softfree-answer.json", new Blob([JSON.stringify({ model, predictions, notice }, null, 2)], { type: "application/json" }));
}

function say(words) {
  const status = byId("status");
  if (status.textContent !== words) status.textContent = words;
}

function progress(share) {
  byId("progress").hidden = share === null;
  byId("progress-bar").style.width = `${100 * (share ?? 0)}%`;
}

function failed(error) {
  say("");
  fill(byId("answer"), el("div", { class: "callout bad", role: "alert" }, el("h2", {}, "No answer"), el("p", {}, error.message)));
}

function complain(error) {
  const line = byId("start-error");
  line.textContent = error.message;
  line.hidden = false;
}

const ready = start();
